"""What the questions print for people: at most a screen, the worst first, nothing twice."""

from __future__ import annotations

import re
import traceback

import pytest

from clew import measure
from clew.answers.timestamps import to_rfc3339
from clew.operations import wrappers

MINUTE = 60 * 10**9
MS = 10**6
LIBRARY = "/srv/shop/.venv/lib/python3.12/site-packages"


def traceback_of(*frames, error="KeyError: 'gift'"):
    lines = ["Traceback (most recent call last):"]
    for file, code in frames:
        lines += [f'  File "{file}", line 7, in call', f"    {code}", f"    {'^' * len(code)}"]
    return "\n".join([*lines, error])


SERVER = [(f"{LIBRARY}/uvicorn/server.py", "await app()"), (f"{LIBRARY}/starlette/routing.py", "await self.app()")]
OWN = [("/srv/shop/front.py", "return pay(cart)"), ("/srv/shop/prices.py", "prices[cart]")]


@pytest.fixture
def failed_line(exports, now):
    def failed_line(body, traceback, *, at=0, error="KeyError", instance="front-1"):
        attributes = {"request_id": "r", "exception.type": error, "exception.message": "'gift'"}
        return exports.log_line(
            body,
            at=now + at,
            severity=17,
            attributes=attributes | {"exception.stacktrace": traceback},
            resource={"service.name": "front", "service.instance.id": instance},
        )

    return failed_line


def test_a_traceback_is_shown_without_the_frames_of_libraries(stored, clew, failed_line):
    driver = [(f"{LIBRARY}/psycopg/cursor.py", "raise error"), ("/usr/lib/python3.12/asyncio/tasks.py", "step()")]
    stored.send(failed_line("broken", traceback_of(*SERVER, *OWN, *driver)))
    shown = clew("follow", "r", "--store", stored.store).stdout
    assert [line.strip() for line in shown.partition("Traceback")[2].splitlines()[1:]] == [
        "… 2 frames of uvicorn, starlette",
        'File "/srv/shop/front.py", line 7, in call',
        "return pay(cart)",
        'File "/srv/shop/prices.py", line 7, in call',
        "prices[cart]",
        "… 2 frames of psycopg, asyncio",
        "KeyError: 'gift'",
    ]


def test_where_all_frames_are_libraries_the_last_stays(stored, clew, failed_line):
    stored.send(failed_line("broken", traceback_of(*SERVER)))
    shown = clew("follow", "r", "--store", stored.store).stdout
    assert "… 1 frame of uvicorn" in shown
    assert "starlette/routing.py" in shown


def test_the_frames_of_clew_itself_are_folded(stored, clew, failed_line):
    @measure
    def fails(value):
        raise ValueError(value)

    with pytest.raises(ValueError, match="1") as raised:
        fails(1)
    compiled = traceback.extract_tb(raised.value.__traceback__)[1].filename
    ours = [(wrappers.__file__, "function()"), (compiled, "function()")]
    stored.send(failed_line("broken", traceback_of(OWN[0], *ours, OWN[1])))
    assert "… 2 frames of clew" in clew("follow", "r", "--store", stored.store).stdout


def test_both_halves_of_a_chained_exception_are_shown(stored, clew, failed_line):
    chained = "\n\nDuring handling of the above exception, another exception occurred:\n\n"
    later = traceback_of(*SERVER, OWN[0], error="shop.Broken: no price")
    stored.send(failed_line("broken", traceback_of(*SERVER, OWN[1]) + chained + later))
    shown = clew("follow", "r", "--store", stored.store).stdout
    assert "KeyError: 'gift'" in shown
    assert "During handling of the above exception" in shown
    assert "shop.Broken: no price" in shown
    assert shown.count("… 2 frames of uvicorn, starlette") == 2


def test_one_exception_logged_twice_has_one_traceback_and_json_has_both(stored, clew, failed_line):
    inner, outer = traceback_of(SERVER[1], *OWN), traceback_of(*SERVER, *OWN)
    stored.send(failed_line("in the framework", inner), failed_line("in the server\n", outer, at=MS))
    shown = clew("follow", "r", "--store", stored.store).stdout
    assert shown.count("KeyError: 'gift'") == 1
    assert re.search(r"ERROR\s+in the server  \(traceback above\)  exception\.type=KeyError$", shown, re.MULTILINE)
    events = clew("follow", "r", "--store", stored.store, "--format", "json").json["events"]
    assert [event["attributes"]["exception.stacktrace"] for event in events] == [inner, outer]


@pytest.mark.parametrize(
    "other", [traceback_of(*OWN, error="KeyError: 'other'"), traceback_of(*SERVER, OWN[0])], ids=["value", "place"]
)
def test_another_exception_has_its_own_traceback(stored, clew, failed_line, other):
    stored.send(failed_line("first", traceback_of(*OWN)), failed_line("second", other, at=MS))
    shown = clew("follow", "r", "--store", stored.store).stdout
    assert shown.count("Traceback (most recent call last)") == 2
    assert "(traceback above)" not in shown


def test_what_is_no_python_traceback_is_shown_as_it_came(stored, clew, failed_line):
    java = "java.lang.Error: no\n\tat shop.Front.pay(Front.java:7)\n\tat shop.Front.main(Front.java:1)"
    stored.send(failed_line("broken", java))
    shown = clew("follow", "r", "--store", stored.store).stdout
    assert [line.strip() for line in shown.splitlines()[-3:]] == [
        "java.lang.Error: no",
        "�at shop.Front.pay(Front.java:7)",
        "�at shop.Front.main(Front.java:1)",
    ]


def test_of_an_http_span_only_what_matters_is_shown_and_json_has_all(stored, clew, exports, now):
    attributes = {
        "request_id": "r",
        "http.request.method": "POST",
        "http.response.status_code": 503,
        "http.route": "/carts/{id}",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": 8000,
        "url.path": "/carts/7",
        "url.scheme": "http",
        "user_agent.original": "curl",
        "error.type": "503",
        "shop.tier": "gold",
    }
    span = exports.span(
        "POST /carts/{id}", start=now, end=now + MS, trace_id=b"t" * 16, span_id=b"s" * 8, attributes=attributes
    )
    stored.send(span)
    last = clew("follow", "r", "--store", stored.store).stdout.splitlines()[-1]
    assert last.endswith(
        "POST /carts/{id}  error.type=503 http.response.status_code=503 shop.tier=gold url.path=/carts/7"
    )
    assert (
        clew("follow", "r", "--store", stored.store, "--format", "json").json["events"][0]["attributes"] == attributes
    )


def test_a_canonical_line_says_its_operations_shortly_and_nothing_twice(stored, clew, exports, now):
    attributes = {
        "request_id": "r",
        "request.name": "GET /carts/{id}",
        "request.duration": 1.25,
        "request.outcome": "failure",
        "error.type": "KeyError",
        "http.route": "/carts/{id}",
        "http.response.status_code": 500,
        "order.id": "8f3c",
        "request.operations": {
            "look up": {"count": 3, "failed": 1, "duration": 0.5},
            "pay": {"count": 1, "failed": 0, "duration": 0.002},
        },
    }
    stored.send(exports.log_line("GET /carts/{id} failed (KeyError) in 1.25 s", at=now, attributes=attributes))
    last = clew("follow", "r", "--store", stored.store).stdout.splitlines()[-1]
    assert last.endswith(
        "in 1.25 s  http.response.status_code=500 order.id=8f3c [look up 3× 500 ms (1 failed)] [pay 2.00 ms]"
    )
    (event,) = clew("follow", "r", "--store", stored.store, "--format", "json").json["events"]
    assert event["attributes"] == attributes


def test_attributes_that_only_have_the_name_of_a_canonical_line_s_are_shown(stored, clew, exports, now):
    attributes = {"request_id": "r", "request.operations": {"pay": {"count": "many"}}, "b": 1}
    stored.send(exports.log_line("done", at=now, attributes=attributes))
    last = clew("follow", "r", "--store", stored.store).stdout.splitlines()[-1]
    assert last.endswith("done  b=1 [pay {'count': 'many'}]")


def test_an_instance_is_named_where_its_service_has_several(stored, clew, exports, now):
    message = logs = None
    named = {"payments": ("payments-1", "payments-2"), "front": ("9e107d9d-372b-4682-8f6e-1c1f6f8a2f11",)}
    for service, instances in named.items():
        for instance in instances:
            resource = {"service.name": service, "service.instance.id": instance}
            message = exports.histogram([0.1], at=now, start=now - MINUTE, resource=resource, message=message)
        logs = exports.log_line("done", at=now, attributes={"request_id": "r"}, resource=resource, message=logs)
    stored.send(message, logs)
    shown = clew("follow", "r", "--store", stored.store).stdout
    assert re.search(r"ms  payments-2 +INFO", shown)
    assert re.search(r"ms  front +INFO", shown)
    other = {"service.name": "front", "service.instance.id": "0a1b2c3d-372b-4682-8f6e-1c1f6f8a2f11"}
    stored.send(exports.histogram([0.1], at=now, start=now - MINUTE, resource=other))
    assert re.search(r"ms  front/9e107d9d +INFO", clew("follow", "r", "--store", stored.store).stdout)


# ------------------------------------------------------------------------------------------------------------- report


@pytest.fixture
def many(stored, exports, now):
    """Two services with twelve operations each; the sevenths fail, the later are the slower."""
    message = None
    for service in ("front", "stock"):
        for number in range(12):
            failing = [{"error.type": "Declined"}] if number == 7 else []
            for more in ({}, *failing):
                message = exports.histogram(
                    [0.0005 * 2**number] * 20,
                    at=now,
                    start=now - MINUTE,
                    attributes={"operation.name": f"{service} step {number:02}", **more},
                    resource={"service.name": service},
                    exemplars=[(0.0005 * 2**number, now - 5, f"req-{service}-{number}")],
                    message=message,
                )
    stored.send(message)
    return stored


def names(shown):
    return re.findall(r"^ (\w+ step \d\d)", shown, re.MULTILINE)


def test_the_report_shows_the_ten_worst_first_and_says_how_many_more_there_are(many, clew):
    shown = clew("report", "--store", many.store).stdout
    assert names(shown)[:2] == ["front step 07", "stock step 07"]
    assert names(shown)[2:4] == ["front step 11", "stock step 11"]
    assert len(names(shown)) == 10
    assert "… and 14 operations more" in shown
    assert len(shown.splitlines()) <= 50


def test_top_says_how_many_and_json_is_complete_whatever_it_says(many, clew):
    assert len(names(clew("report", "--top", "3", "--store", many.store).stdout)) == 3
    everything = clew("report", "--top", "100", "--store", many.store).stdout
    assert len(names(everything)) == 24
    assert "operations more" not in everything
    answer = clew("report", "--top", "3", "--store", many.store, "--format", "json").json
    assert len(answer["operations"]) == 24


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--service", "front"], 12),
        (["--service", "front", "--service", "stock"], 24),
        (["--service", "fr*"], 12),
        (["--operation", "front step 07"], 1),
        (["--operation", "* step 0?"], 20),
        (["--operation", "*11", "--operation", "*10"], 4),
        (["--service", "stock", "--operation", "*07"], 1),
    ],
)
def test_service_and_operation_filter_by_name_or_pattern(many, clew, arguments, expected):
    everything = clew("report", "--store", many.store, "--format", "json").json
    chosen = clew("report", *arguments, "--store", many.store, "--format", "json").json
    assert len(chosen["operations"]) == expected
    assert all(one in everything["operations"] for one in chosen["operations"])
    assert chosen["observed"] == everything["observed"]


def test_a_name_with_signs_of_patterns_in_it_is_found_as_it_is(stored, clew, exports, now):
    stored.send(exports.histogram([0.1], at=now, start=now - MINUTE, attributes={"operation.name": "a[1] * b"}))
    answer = clew("report", "--operation", "a[1] * b", "--store", stored.store, "--format", "json")
    assert [one["name"] for one in answer.json["operations"]] == ["a[1] * b"]


def test_what_no_operation_matches_is_named(many, clew):
    answer = clew("report", "--service", "fornt", "--operation", "x*", "--store", many.store)
    assert answer.status == 1
    assert "'fornt'" in answer.stderr
    assert "'x*'" in answer.stderr


@pytest.mark.parametrize("option", ["--top=0", "--top=-1", "--top=many"])
def test_top_takes_numbers_from_1(clew, option):
    answer = clew("report", option)
    assert answer.status == 2
    assert "allowed are 1 to" in answer.stderr


def test_long_names_are_folded_at_their_joints(stored, clew, exports, now):
    attributes = {"http.request.method": "PUT", "http.route": "/customers/{customer_id}/orders/{order_id}/lines"}
    stored.send(
        exports.histogram([0.1], at=now, start=now - MINUTE, name="http.server.request.duration", attributes=attributes)
    )
    lines = clew("report", "--store", stored.store).stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(" PUT"))
    pieces = [re.split(r" {2,}", line.strip())[0] for line in lines[first : lines.index("", first)]]
    assert "".join(pieces) == "PUT /customers/{customer_id}/orders/{order_id}/lines"
    assert len(pieces) > 1
    assert all(piece.startswith("/") for piece in pieces[1:])


# ------------------------------------------------------------------------------------------------------------- around


def two_instances(exports, now, *, port_of):
    """Sixty requests to each of two instances, of which b-2 fails every third; the spans have a port."""
    metrics = spans = None
    for instance in ("b-1", "b-2"):
        resource = {"service.name": "b", "service.instance.id": instance}
        failures = 20 if instance == "b-2" else 0
        for number in range(60):
            failed = number % 3 == 0 and bool(failures)
            attributes = {"request_id": f"{instance}-{number}", "server.port": port_of(instance, number)}
            spans = exports.span(
                "pay",
                start=now - number * MS,
                end=now - number * MS + MS,
                trace_id=f"{instance}{number:13}".encode(),
                span_id=f"{instance}{number:5}".encode(),
                failed=failed,
                attributes=attributes | ({"error.type": "Sick"} if failed else {}),
                resource=resource,
                message=spans,
            )
        for calls, error in ((60 - failures, {}), (failures, {"error.type": "Sick"})):
            if calls:
                metrics = exports.histogram(
                    [0.05] * calls,
                    at=now,
                    start=now - MINUTE,
                    attributes={"operation.name": "pay", **error},
                    resource=resource,
                    message=metrics,
                )
    return metrics, spans


@pytest.fixture
def ask_around(stored, clew):
    """Ask for the three minutes around a request or a time."""

    def ask_around(what, *arguments):
        return clew("around", what, "--window", "3m", *arguments, "--store", stored.store)

    return ask_around


def test_a_value_that_only_repeats_the_instance_is_not_listed_beside_it(stored, ask_around, exports, now):
    stored.send(*two_instances(exports, now, port_of=lambda instance, _: {"b-1": 8001, "b-2": 8002}[instance]))
    answer = ask_around("b-2-0", "--format", "json").json
    (found,) = answer["shared"]
    assert (found["attribute"], found["value"], found["basis"]) == ("service.instance.id", "b-2", "counts")
    assert found["also"] == [{"attribute": "server.port", "value": 8002}]
    shown = ask_around("b-2-0").stdout
    assert shown.count("8002") == 1


def test_a_value_that_divides_otherwise_stays(stored, ask_around, exports, now):
    stored.send(*two_instances(exports, now, port_of=lambda _, number: 8000 + number % 3))
    answer = ask_around("b-2-0", "--format", "json").json
    assert {(one["attribute"], one["value"]) for one in answer["shared"]} == {
        ("service.instance.id", "b-2"),
        ("server.port", 8000),
    }


def test_failures_are_counted_by_where_and_how_with_a_request_to_follow(stored, ask_around, exports, now):
    stored.send(*two_instances(exports, now, port_of=lambda *_: 1))
    answer = ask_around("b-2-0", "--format", "json").json
    assert answer["failures"] == [
        {
            "service": "b",
            "instance": "b-2",
            "text": "pay",
            "error_type": "Sick",
            "count": 20,
            "request_id": "b-2-0",
        }
    ]
    shown = ask_around("b-2-0").stdout
    assert re.search(r"^ +20  b/b-2|^ +20  b-2", shown, re.MULTILINE)


def test_the_text_of_around_fits_a_screen_and_leaves_out_what_is_hardly_more_common(stored, ask_around, exports, now):
    message, lines = None, None
    for number, failing in enumerate((40, 52)):  # 1.3 times as often
        for durations, more in (([0.05] * 400, {}), ([0.05] * failing * 10, {"error.type": "Sick"})):
            message = exports.histogram(
                durations * 10,
                at=now,
                start=now - MINUTE,
                attributes={"operation.name": f"step {number}", **more},
                message=message,
            )
    for number in range(300):
        lines = exports.log_line(f"line {number}", at=now - number * MS, message=lines)
    stored.send(message, lines)
    answer = ask_around(to_rfc3339(now), "--format", "json").json
    (found,) = answer["shared"]
    assert 1 < found["lift"] < 1.5
    shown = ask_around(to_rfc3339(now)).stdout
    assert "share nothing" in shown
    assert len(re.findall(r"line \d+$", shown, re.MULTILINE)) == 12
    assert "… and 288 events more" in shown
    five = ask_around(to_rfc3339(now), "--events", "5").stdout
    assert len(re.findall(r"line \d+$", five, re.MULTILINE)) == 5


@pytest.mark.parametrize(
    ("nanoseconds", "written"),
    [
        (99_960, "100 µs"),
        (999_700, "1.00 ms"),
        (9_996_000, "10.0 ms"),
        (999_600_000, "1.00 s"),
        (62_000_000_000, "62.0 s"),
        (7_260_000_000_000, "2 h 1 min"),
    ],
)
def test_a_duration_has_three_digits_and_the_unit_that_suits_it(stored, clew, exports, now, nanoseconds, written):
    start = now - 3 * 60 * MINUTE
    span = exports.span(
        "s",
        start=start,
        end=start + nanoseconds,
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        attributes={"request_id": "r"},
    )
    stored.send(span)
    assert re.search(rf"▶ +{written}  s$", clew("follow", "r", "--store", stored.store).stdout, re.MULTILINE)
