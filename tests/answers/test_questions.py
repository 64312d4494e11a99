"""The questions through the command line: exact numbers, exact shapes, exit statuses, and text to copy from."""

from __future__ import annotations

import json
import random
import re
from datetime import datetime, timezone

import pytest

HOUR = 3600 * 10**9
MINUTE = 60 * 10**9


def rfc3339(nanoseconds):
    return datetime.fromtimestamp(nanoseconds // 10**9, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def ask(stored, clew):
    def ask(*arguments):
        answer = clew(*arguments, "--store", stored.store, "--format", "json")
        assert answer.status == 0, answer.stderr
        assert "Traceback" not in answer.stderr
        return answer.json

    return ask


def test_report_has_exactly_the_promised_shape(stored, ask, exports, now):
    start = now - 10 * MINUTE
    message = exports.histogram(
        [0.05] * 8, at=now, start=start, exemplars=[(0.05, now - MINUTE, "fast"), (0.06, now - 2 * MINUTE, "")]
    )
    exports.histogram(
        [0.5, 2.5],
        at=now,
        start=start,
        attributes={"operation.name": "checkout", "error.type": "shop.Declined"},
        exemplars=[(0.5, now - MINUTE, "failed-new"), (2.5, now - 3 * MINUTE, "failed-slow")],
        message=message,
    )
    stored.send(message)
    answer = ask("report")
    assert set(answer) == {"version", "start", "end", "observed", "operations"}
    assert answer["version"] == 1
    assert answer["start"] == rfc3339(now - HOUR)
    assert answer["end"] == rfc3339(now)
    assert answer["observed"] == 600
    (one,) = answer["operations"]
    unknown = {"before": None, "ratio": None, "direction": "unknown", "p_value": None}
    assert one == {
        "name": "checkout",
        "kind": "operation",
        "service": "shop",
        "calls": 10,
        "rate": 10 / 600,
        "errors": {"shop.Declined": 2},
        "p50": pytest.approx(0.06),  # 0.066 interpolated, cut at the largest exemplar of the bucket
        "p95": 2.5,
        "p99": 2.5,
        "p50_bounds": [0.01, 0.1],
        "p95_bounds": [1.0, 10.0],
        "p99_bounds": [1.0, 10.0],
        "trend": {
            "load": {"now": 10 / 600} | unknown,
            "errors": {"now": 0.2} | unknown,
            "duration": {"now": pytest.approx(0.34)} | unknown,
        },
        "slowest": [
            {"request_id": "failed-slow", "duration": 2.5, "time": rfc3339(now - 3 * MINUTE)},
            {"request_id": "failed-new", "duration": 0.5, "time": rfc3339(now - MINUTE)},
            {"request_id": None, "duration": 0.06, "time": rfc3339(now - 2 * MINUTE)},
            {"request_id": "fast", "duration": 0.05, "time": rfc3339(now - MINUTE)},
        ],
        "failed": [
            {"request_id": "failed-new", "error_type": "shop.Declined", "time": rfc3339(now - MINUTE)},
            {"request_id": "failed-slow", "error_type": "shop.Declined", "time": rfc3339(now - 3 * MINUTE)},
        ],
    }


def test_an_exemplar_without_a_request_id_takes_that_of_its_span(stored, ask, exports, now):
    trace, span = b"t" * 16, b"s" * 8
    message = exports.histogram([0.5], at=now, start=now - MINUTE, exemplars=[(0.5, now - 5, "")])
    exemplar = message.resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points[0].exemplars[0]
    exemplar.trace_id, exemplar.span_id = trace, span
    attributes = {"request_id": "from-span"}
    stored.send(message, exports.span("s", start=now, end=now, trace_id=trace, span_id=span, attributes=attributes))
    assert ask("report")["operations"][0]["slowest"][0]["request_id"] == "from-span"


@pytest.mark.parametrize("delta", [False, True], ids=["cumulative", "delta"])
def test_the_first_call_of_a_series_is_shown_though_the_series_began_a_moment_after_it(
    stored, ask, exports, now, delta
):
    start = now - MINUTE  # the SDK begins a series when it stores its first value, which was measured before
    message = exports.histogram(
        [0.5],
        at=now,
        start=start,
        delta=delta,
        attributes={"operation.name": "checkout", "error.type": "Declined"},
        exemplars=[(0.5, start - 40_000, "the-first")],
    )
    stored.send(message)
    (one,) = ask("report")["operations"]
    assert [each["request_id"] for each in one["slowest"]] == ["the-first"]
    assert [each["request_id"] for each in one["failed"]] == ["the-first"]


def hours(exports, end, *, calls, slower=1.0, failing=0, instance="1", seed=0):
    """An hour of exports, one every 15 s, with `calls` in each; every seventh export twice as many."""
    chance = random.Random(seed)
    durations: list[float] = []
    failed: list[float] = []
    message = None
    resource = {"service.name": "shop", "service.instance.id": instance}
    start = end - HOUR
    for step in range(1, 241):
        for _ in range(calls * (2 if step % 7 == 0 else 1)):
            durations.append(chance.uniform(0.02, 0.08) * slower)
        failed += [0.05] * (failing if step % 3 == 0 else 0)
        for values, error in ((durations, {}), (failed, {"error.type": "Declined"})):
            if values:
                message = exports.histogram(
                    values,
                    at=start + step * 15 * 10**9,
                    start=start,
                    attributes={"operation.name": "checkout", **error},
                    resource=resource,
                    message=message,
                )
    return message, len(durations) + len(failed), len(failed)


@pytest.mark.parametrize(
    ("load", "slower", "failing", "expected"),
    [
        (4, 1.0, 1, ("level", "level", "level")),
        (8, 1.0, 2, ("up", "level", "level")),
        (2, 1.0, 1, ("down", "up", "level")),
        (4, 1.5, 1, ("level", "level", "up")),
        (3, 0.6, 4, ("level", "up", "down")),
    ],
)
def test_today_is_compared_with_yesterday(stored, ask, exports, now, load, slower, failing, expected):
    before, calls_before, failed_before = hours(exports, now - 24 * HOUR, calls=4, failing=1, instance="a", seed=1)
    today, calls, failed = hours(exports, now, calls=load, slower=slower, failing=failing, instance="b", seed=2)
    stored.send(before, today)
    (one,) = ask("report", "--window", "1h", "--compare", "24h")["operations"]
    assert one["calls"] == calls
    assert one["errors"] == {"Declined": failed}
    trend = one["trend"]
    assert trend["load"]["now"] == pytest.approx(calls / 3600)
    assert trend["load"]["before"] == pytest.approx(calls_before / 3600)
    assert trend["load"]["ratio"] == pytest.approx(calls / calls_before)
    assert trend["errors"]["before"] == pytest.approx(failed_before / calls_before)
    assert tuple(trend[name]["direction"] for name in ("load", "errors", "duration")) == expected


def test_the_text_says_what_rose_and_fell_without_cutting_anything(stored, clew, exports, now):
    before, *_ = hours(exports, now - 24 * HOUR, calls=4, failing=1, instance="a", seed=1)
    today, *_ = hours(exports, now, calls=12, slower=1.5, failing=6, instance="b", seed=2)
    stored.send(before, today)
    shown = clew("report", "--store", stored.store).stdout
    assert "against 24 h before" in shown
    (row,) = re.findall(r"^ checkout .*$", shown, re.MULTILINE)
    assert re.search(r"/s ▲3\.2×  13 % ▲1\.9× .* ▲1\.4× ", row)
    assert len(row) <= 80
    assert "…" not in shown


def test_semantic_conventions_are_operations_too(stored, ask, exports, now):
    start = now - MINUTE
    message = None
    for name, unit, attributes in (
        ("http.server.request.duration", "s", {"http.request.method": "GET", "http.route": "/cart/{id}"}),
        (
            "http.server.request.duration",
            "s",
            {"http.request.method": "GET", "http.route": "/cart/{id}", "http.response.status_code": 503},
        ),
        (
            "http.server.request.duration",
            "s",
            {"http.request.method": "GET", "http.route": "/cart/{id}", "http.response.status_code": 404},
        ),
        ("http.server.request.duration", "s", {"http.request.method": "POST"}),
        ("rpc.server.call.duration", "s", {"rpc.system.name": "grpc", "rpc.method": "shop.Stock/Reserve"}),
        ("rpc.server.duration", "ms", {"rpc.service": "shop.Stock", "rpc.method": "Old", "rpc.grpc.status_code": 13}),
        (
            "messaging.process.duration",
            "s",
            {"messaging.operation.name": "process", "messaging.destination.name": "orders", "error.type": "Late"},
        ),
        ("db.client.operation.duration", "s", {"db.operation.name": "SELECT"}),
    ):
        message = exports.histogram(
            [0.05], at=now, start=start, name=name, unit=unit, attributes=attributes, message=message
        )
    stored.send(message)
    found = {(one["kind"], one["name"]): (one["calls"], one["errors"]) for one in ask("report")["operations"]}
    assert found == {
        ("http", "GET /cart/{id}"): (3, {"503": 1}),
        ("http", "POST"): (1, {}),
        ("rpc", "shop.Stock/Reserve"): (1, {}),
        ("rpc", "shop.Stock/Old"): (1, {"INTERNAL": 1}),
        ("messaging", "process orders"): (1, {"Late": 1}),
    }


@pytest.fixture
def shop(stored, exports, now):
    """One request over three services: the front knows its ID, the stock service only the trace, the worker both."""
    trace, other = b"t" * 16, b"o" * 16
    front, stock, inner, worker = (bytes([number]) * 8 for number in range(1, 5))
    ms = 10**6
    named = {"request_id": "req-1"}
    stored.send(
        exports.span(
            "POST /checkout", start=now, end=now + 80 * ms, trace_id=trace, span_id=front, attributes=named, failed=True
        ),
        exports.span(
            "reserve",
            start=now + 10 * ms,
            end=now + 50 * ms,
            trace_id=trace,
            span_id=stock,
            parent_id=front,
            resource={"service.name": "stock", "service.instance.id": "stock-2"},
        ),
        exports.span(
            "SELECT",
            start=now + 20 * ms,
            end=now + 30 * ms,
            trace_id=trace,
            span_id=inner,
            parent_id=stock,
            resource={"service.name": "stock", "service.instance.id": "stock-2"},
        ),
        exports.span(
            "ship",
            start=now + 5000 * ms,
            end=now + 5100 * ms,
            trace_id=other,
            span_id=worker,
            attributes=named,
            resource={"service.name": "worker"},
        ),
        # Another request's span below ours, in the same trace: not ours, nor what is below it.
        exports.span(
            "batch",
            start=now,
            end=now,
            trace_id=trace,
            span_id=b"b" * 8,
            parent_id=front,
            attributes={"request_id": "x"},
        ),
        exports.span("in batch", start=now, end=now, trace_id=trace, span_id=b"c" * 8, parent_id=b"b" * 8),
        exports.log_line("taking order", at=now + 1 * ms, attributes=named | {"order.id": 17}),
        exports.log_line(
            "locked row",
            at=now + 25 * ms,
            severity=13,
            trace_id=trace,
            span_id=inner,
            resource={"service.name": "stock"},
        ),
        exports.log_line("other's", at=now, trace_id=trace, span_id=b"c" * 8),
        exports.log_line("shipped", at=now + 5050 * ms, attributes=named, resource={"service.name": "worker"}),
        exports.log_line("no one's", at=now + 2 * ms),
    )
    return stored


def test_follow_finds_spans_and_log_lines_of_every_service_in_order_of_time(shop, ask, now):
    answer = ask("follow", "req-1")
    assert set(answer) == {"version", "request_id", "start", "end", "events"}
    assert (answer["version"], answer["request_id"]) == (1, "req-1")
    assert answer["start"] == rfc3339(now)
    assert answer["end"].startswith(rfc3339(now + 5 * 10**9)[:-1] + ".1")
    assert [(one["kind"], one["service"], one["text"]) for one in answer["events"]] == [
        ("span", "shop", "POST /checkout"),
        ("log", "shop", "taking order"),
        ("span", "stock", "reserve"),
        ("span", "stock", "SELECT"),
        ("log", "stock", "locked row"),
        ("span", "worker", "ship"),
        ("log", "worker", "shipped"),
    ]
    first, line = answer["events"][:2]
    assert first == {
        "time": rfc3339(now),
        "kind": "span",
        "service": "shop",
        "instance": None,
        "text": "POST /checkout",
        "duration": 0.08,
        "severity": "ERROR",
        "attributes": {"request_id": "req-1"},
    }
    assert (line["duration"], line["severity"]) == (None, "INFO")
    assert line["attributes"] == {"request_id": "req-1", "order.id": 17}
    assert answer["events"][2]["instance"] == "stock-2"


def test_follow_as_text_is_a_timeline_of_all_services(shop, clew):
    answer = clew("follow", "req-1", "--store", shop.store)
    assert answer.status == 0
    lines = [line for line in answer.stdout.splitlines() if line.strip()]
    assert "req-1" in lines[0]
    assert "shop, stock, worker" in lines[1]
    assert "failed" in lines[1]
    assert re.match(r"\s+\+0\.0 ms\s+shop\s+▶ 80\.0 ms\s+POST /checkout", lines[2])
    assert re.match(r"\s+\+1\.0 ms\s+shop\s+INFO\s+taking order\s+order\.id=17", lines[3])
    assert re.match(r"\s+\+25\.0 ms\s+stock\s+WARN\s+locked row", lines[6])


def sick_shop(exports, now, *, quiet=False):
    """A front with one instance before two of the stock service, one of which fails and is slow now and then.

    Returns messages, the number of requests and of failed ones. The healthy instance "c" has 1 % of the calls.
    """
    chance = random.Random(5)
    counts: dict[tuple[str, str, bool], list[float]] = {}
    exemplars: dict[tuple[str, str, bool], list[tuple[float, int, str]]] = {}
    logs = None
    failures = 0
    for number in range(1000):
        at = now - 20 * 10**9 + number * 15 * 10**6
        instance = "c" if number % 100 == 0 else chance.choice("ab")
        sick = instance == "b" and chance.random() < 0.2
        failures += sick
        request_id = f"req-{number}"
        for service, name, seconds in (("front", "f", 0.03), ("stock", instance, 0.02)):
            counts.setdefault((service, name, sick), []).append(seconds)
            exemplars.setdefault((service, name, sick), []).append((seconds, at, request_id))
        attributes = {
            "request_id": request_id,
            "order": number,
            "code.line.number": 7,
            "tenant": "acme" if sick else "other",
        }
        logs = exports.log_line(
            "reserving",
            at=at,
            severity=17 if sick else 9,
            attributes=attributes,
            resource={"service.name": "stock"},
            message=logs,
        )
    metrics = None
    for (service, name, sick), durations in counts.items():
        metrics = exports.histogram(
            durations,
            at=now,
            start=now - 30 * 10**9,
            attributes={"operation.name": f"{service}.call", **({"error.type": "Sick"} if sick else {})},
            resource={"service.name": service, "service.instance.id": name},
            exemplars=exemplars[service, name, sick][-6:],
            message=metrics,
        )
    return [metrics, logs], 1000, failures


def test_around_finds_the_sick_instance_by_counts_and_log_attributes_by_samples(stored, ask, exports, now):
    messages, requests, failures = sick_shop(exports, now)
    stored.send(*messages)
    answer = ask("around", rfc3339(now - 12 * 10**9), "--window", "60s")
    assert set(answer) == {"version", "start", "end", "requests", "failed", "shared", "failures", "events"}
    assert (answer["requests"], answer["failed"]) == (requests, failures)
    assert answer["start"] == rfc3339(now - 42 * 10**9)
    assert answer["end"] == rfc3339(now + 18 * 10**9)
    shared = {(one["attribute"], one["value"]): one for one in answer["shared"]}
    sick = shared["service.instance.id", "b"]
    assert sick["basis"] == "counts"
    assert sick["share_of_bad"] == pytest.approx(
        0.5, abs=0.01
    )  # the other half of bad calls are the front's, for its sake
    assert sick["lift"] == pytest.approx(sick["share_of_bad"] / sick["share_of_rest"])
    assert ("service.instance.id", "c") not in shared
    tenant = shared["tenant", "acme"]
    assert tenant["basis"] == "samples"
    assert set(tenant) == {"attribute", "value", "share_of_bad", "share_of_rest", "lift", "basis", "also"}
    assert tenant["also"] == sick["also"] == []
    assert {name for name, _ in shared} == {"service.instance.id", "tenant"}
    assert answer["events"]
    assert {"time", "kind", "service", "text", "request_id"} <= set(answer["events"][0])


def test_around_does_not_take_what_is_only_known_of_failed_requests_for_what_they_share(stored, ask, exports, now):
    lines = None
    seconds = [0.02] * 400
    for number in range(60):  # log lines are kept of all failed requests and of a tenth of the others
        failed = number < 40
        attributes = {"request_id": f"req-{number}", "colour": "rgb"[number % 3]}
        severity = 17 if failed else 9
        lines = exports.log_line("done", at=now - number, severity=severity, attributes=attributes, message=lines)
    exemplars = [(0.02, now - 5, f"other-{number}") for number in range(200)]
    stored.send(exports.histogram(seconds, at=now, start=now - 30 * 10**9, exemplars=exemplars), lines)
    answer = ask("around", rfc3339(now), "--window", "60s")
    assert (answer["requests"], answer["failed"]) == (260, 40)
    assert answer["shared"] == []


def test_around_a_request_is_the_window_with_it_in_the_middle(shop, ask, now):
    answer = ask("around", "req-1", "--window", "30s")
    middle = now + 2_550_000_000
    assert answer["start"].startswith(rfc3339(middle - 15 * 10**9)[:-1])
    assert answer["requests"] == 2
    assert answer["failed"] == 1
    assert "no one's" in [event["text"] for event in answer["events"]]
    # A window shorter than the request is widened to hold it.
    assert ask("around", "req-1", "--window", "1s")["end"] >= ask("follow", "req-1")["end"]


def test_around_counts_a_window_that_lies_between_two_exports(stored, ask, exports, now):
    start = now - 10 * MINUTE
    for minutes, calls in ((2, 100), (1, 150)):
        message = None
        for instance, failed in (("good", 0), ("bad", calls // 5)):
            resource = {"service.name": "shop", "service.instance.id": instance}
            at = now - minutes * MINUTE
            message = exports.histogram([0.05] * calls, at=at, start=start, resource=resource, message=message)
            if failed:
                attributes = {"operation.name": "checkout", "error.type": "Sick"}
                message = exports.histogram(
                    [0.05] * failed, at=at, start=start, resource=resource, attributes=attributes, message=message
                )
        stored.send(message)
    stored.send(exports.log_line("then", at=now - 90 * 10**9))
    shared = ask("around", rfc3339(now - 90 * 10**9), "--window", "10s")["shared"]
    assert (shared[0]["attribute"], shared[0]["value"]) == ("service.instance.id", "bad")


def test_around_finds_an_instance_that_is_only_slow(stored, ask, exports, now):
    message = None
    for instance, durations in (("a", [0.005] * 400), ("b", [0.005] * 360 + [0.5] * 40)):
        message = exports.histogram(
            durations,
            at=now,
            start=now - MINUTE,
            resource={"service.name": "shop", "service.instance.id": instance, "host.name": f"host-{instance}"},
            message=message,
        )
    stored.send(message)
    stored.send(exports.log_line("then", at=now - MINUTE // 2))
    answer = ask("around", rfc3339(now - MINUTE // 2), "--window", "60s")
    (found,) = answer["shared"]
    assert (found["attribute"], found["value"]) == ("service.instance.id", "b")
    assert found["also"] == [{"attribute": "host.name", "value": "host-b"}]


def test_around_as_text_names_what_stands_out_while_the_collector_runs(collector, clew, exports, now):
    messages, *_ = sick_shop(exports, now)
    collector.send(*messages)
    answer = clew("around", rfc3339(now - 12 * 10**9), "--window", "60s", "--store", collector.store)
    assert answer.status == 0
    assert "service.instance.id=b" in answer.stdout
    assert "tenant=acme" in answer.stdout
    assert re.search(r"… and \d+ events more", answer.stdout)


def test_a_traceback_is_shown_below_its_line(stored, clew, exports, now):
    attributes = {
        "request_id": "r",
        "exception.type": "KeyError",
        "exception.stacktrace": "Traceback:\n  File x\nKeyError",
    }
    stored.send(exports.log_line("failed", at=now, severity=17, attributes=attributes))
    lines = clew("follow", "r", "--store", stored.store).stdout.rstrip().splitlines()
    assert re.search(r"ERROR\s+failed\s+exception\.type=KeyError$", lines[-4])
    assert [line.strip() for line in lines[-3:]] == ["Traceback:", "File x", "KeyError"]


def test_a_request_that_was_only_measured_is_not_called_unknown(stored, clew, exports, now):
    stored.send(exports.histogram([0.5], at=now, start=now - MINUTE, exemplars=[(0.5, now - 5, "seen")]))
    answer = clew("follow", "seen", "--store", stored.store)
    assert answer.status == 1
    assert "it was measured" in answer.stderr
    assert clew("around", "seen", "--store", stored.store).status == 0


LONG_ID = "0123456789-" * 10 + "abcdefgh"


def test_text_at_80_columns_cuts_no_request_id_and_wraps_nothing(stored, clew, exports, now):
    names = ["checkout", "POST /customers/{customer_id}/orders/{order_id}/lines", "x" * 200]
    message = None
    for name in names:
        message = exports.histogram(
            [0.5] * 1_000,
            at=now,
            start=now - HOUR // 2,
            attributes={"operation.name": name, "error.type": "a.b.Declined"},
            exemplars=[(0.5, now - 5, LONG_ID), (0.4, now - 5, "req-short")],
            message=message,
        )
    stored.send(message)
    answer = clew("report", "--store", stored.store)
    assert answer.status == 0
    assert "\x1b" not in answer.stdout
    lines = answer.stdout.splitlines()
    for request_id in (LONG_ID, "req-short"):
        assert any(re.search(rf"(^|\s){re.escape(request_id)}(\s|$)", line) for line in lines)
    tables = [line for line in lines if "/s" in line or "operation " in line]
    assert tables
    assert max(map(len, tables)) <= 80
    assert "samples" in answer.stdout
    assert "a.b.Declined 1,000" in answer.stdout
    assert f"{1000 / 1800:.1f}/s" in answer.stdout


def test_text_of_others_does_not_steer_the_terminal_nor_the_markup(stored, clew, exports, now):
    stored.send(
        exports.log_line("\x1b[2Jgone\r[bold]x[/bold]\nnext", at=now, attributes={"request_id": "r", "k": "\x07[red]"}),
    )
    shown = clew("follow", "r", "--store", stored.store).stdout
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert "\x07" not in shown
    assert "[bold]x[/bold]" in shown
    assert "[red]" in shown


def test_nothing_found_is_status_1_and_names_what_was_asked_for(stored, clew):
    for command, named in (
        (("report",), "operation"),
        (("follow", "req-99"), "req-99"),
        (("around", "req-99"), "req-99"),
    ):
        for form in ("text", "json"):
            answer = clew(*command, "--store", stored.store, "--format", form)
            assert answer.status == 1
            assert named in answer.stderr
            assert str(stored.store) in answer.stderr
            if form == "text":
                assert answer.stdout == ""
            else:
                assert answer.json["version"] == 1
                assert not answer.json.get("events")
                assert not answer.json.get("operations")


def test_a_missing_store_is_status_3_and_is_not_made(clew, tmp_path):
    for command in (("report",), ("follow", "x"), ("around", "x")):
        answer = clew(*command, "--store", tmp_path / "none.sqlite")
        assert answer.status == 3
        assert "none.sqlite" in answer.stderr
    assert not list(tmp_path.iterdir())


def test_json_is_one_object_and_finite(stored, clew, exports, now):
    message = exports.histogram([0.5], at=now, start=now - MINUTE)
    point = message.resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points[0]
    point.sum = float("nan")
    stored.send(message)
    answer = clew("report", "--store", stored.store, "--format", "json")

    def refuse(name):
        raise AssertionError(name)

    (one,) = json.loads(answer.stdout, parse_constant=refuse)["operations"]
    assert one["trend"]["duration"]["now"] is None
