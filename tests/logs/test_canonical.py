"""With CLEW_LOGS_CANONICAL each request has one record with what it was, how long it took and what was in it."""

from __future__ import annotations

import asyncio
import io
import logging
import logging.config
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from logs.conftest import NEVER, Sent
from logs.test_held_servers import ask, serve
from opentelemetry import trace

import clew
from clew.integrations import asgi, wsgi
from clew.integrations.logging import HoldingHandler
from clew.logs import canonical, tracking
from clew.operations import pipeline

logger = logging.getLogger("shop")


@pytest.fixture
def lines(follow: Callable[..., Sent]) -> Sent:
    return follow(logs_canonical=True)


@clew.measure("pack")
def pack() -> None:
    pass


@clew.measure("send order")
def send_order(fails: bool = False) -> None:
    pack()
    pack()
    with clew.measure("hand over") as m:
        m.set("carrier", "bicycle")
        m.note("tracking", "b-17")
        if fails:
            raise ValueError


def test_there_is_none_unless_asked_for_and_operations_take_the_fast_path(follow: Callable[..., Sent]) -> None:
    sent = follow()
    with clew.request():
        pack()
        with clew.measure("hand over"):
            pass
        with clew.measure("hand over"):
            pass
    assert sent.canonical() == []
    assert tracking.current is None
    assert pipeline.current is not None
    assert not pipeline.current.tracks_requests
    assert pipeline.current.block_bindings["hand over"] is not None
    assert logging.getLogger("clew.canonical").level == logging.NOTSET


def test_a_line_has_what_how_long_how_it_ended_and_what_was_in_it(lines: Sent) -> None:
    with clew.request("r-1"):
        send_order()
    (record,) = lines.canonical()
    fields = dict(record.attributes)
    assert record.severity_text == "INFO"
    assert record.body == f"send order succeeded in {fields['request.duration']:.6f} s"
    assert fields["request_id"] == "r-1"
    assert fields["request.name"] == "send order"
    assert fields["request.outcome"] == "success"
    assert "error.type" not in fields
    assert fields["carrier"] == "bicycle"
    assert fields["tracking"] == "b-17"
    operations = fields["request.operations"]
    assert {name: (runs["count"], runs["failed"]) for name, runs in operations.items()} == {
        "send order": (1, 0),
        "pack": (2, 0),
        "hand over": (1, 0),
    }
    spent = [operations[name]["duration"] for name in ("pack", "hand over", "send order")]
    assert 0 < spent[0] + spent[1] < spent[2] < fields["request.duration"] < NEVER
    assert lines.recorded.calls("pack") == {None: 2}
    assert lines.recorded.durations("hand over")[0].attributes["carrier"] == "bicycle"


def test_a_failed_request_names_its_error_type(lines: Sent) -> None:
    with suppress(ValueError), clew.request():
        send_order(fails=True)
    fields = lines.line()
    assert (fields["request.outcome"], fields["error.type"]) == ("failure", "ValueError")
    assert {name for name, runs in fields["request.operations"].items() if runs["failed"]} == {
        "hand over",
        "send order",
    }
    assert lines.canonical()[0].body.startswith("send order failed (ValueError) in 0.")


def test_fail_of_the_outermost_operation_fails_the_request(lines: Sent) -> None:
    with clew.request(), clew.measure("pay") as m:
        m.fail("declined")
    assert lines.line()["error.type"] == "declined"


def test_a_request_without_an_operation_has_its_line_too(lines: Sent) -> None:
    with clew.request():
        pass
    assert lines.line()["request.name"] == "request"
    assert "request.operations" not in lines.line()


def test_values_go_to_the_line_and_to_the_span_where_there_is_one(follow: Callable[..., Sent]) -> None:
    sent = follow(logs_canonical=True, spans=True)
    with clew.request():
        send_order()
    assert sent.line()["tracking"] == "b-17"
    (span,) = [span for span in sent.recorded.spans() if span.name == "hand over"]
    assert span.attributes is not None
    assert span.attributes["tracking"] == "b-17"
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_the_last_of_several_values_counts_and_the_fields_of_the_line_are_not_replaced(lines: Sent) -> None:
    with clew.request("r-1"), clew.measure("pay") as m:
        m.note("attempt", 1)
        m.note("attempt", 2)
        m.note("request.outcome", "mine")
        m.note("msg", "mine")
        m.note("name", "mine")
        m.note("request_id", "mine")
    fields = lines.line()
    assert fields["attempt"] == 2
    assert fields["request.outcome"] == "success"
    assert fields["value.request.outcome"] == fields["value.msg"] == fields["value.name"] == "mine"
    assert fields["request_id"] == "r-1"


def test_operations_and_values_on_a_line_are_bounded_and_what_is_cut_is_counted(
    lines: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canonical, "MOST_OPERATIONS", 3)
    monkeypatch.setattr(canonical, "MOST_VALUES", 2)
    monkeypatch.setattr(canonical, "LONGEST_TEXT", 5)
    with clew.request():
        for number in range(5):
            with clew.measure(f"step {number}") as m:
                m.note(f"value {number}", "1234567")
    fields = lines.line()
    assert {name: runs["count"] for name, runs in fields["request.operations"].items()} == {
        "step 0": 1,
        "step 1": 1,
        "step 2": 1,
        canonical.FURTHER: 2,
    }
    assert {name: value for name, value in fields.items() if name.startswith("value")} == {
        "value 0": "12345",
        "value 1": "12345",
    }
    assert lines.recorded.events() == {"canonical.cut": 2 + 3 + 2}


def test_operations_in_tasks_and_threads_of_the_request_are_counted_once_each(lines: Sent) -> None:
    async def main() -> None:
        with clew.request():
            await asyncio.gather(*(asyncio.to_thread(pack) for _ in range(20)))

    asyncio.run(main())
    assert lines.line()["request.operations"]["pack"]["count"] == 20


def test_each_request_has_its_own_line_and_further_entries_into_it_none(lines: Sent) -> None:
    with clew.request("outer"):
        pack()
        with clew.request("outer"):
            send_order()
        with clew.request("inner"):
            pack()
    fields = {record.attributes["request_id"]: dict(record.attributes) for record in lines.canonical()}
    assert len(lines.canonical()) == 2
    counts = {name: runs["count"] for name, runs in fields["outer"]["request.operations"].items()}
    assert counts == {"pack": 3, "send order": 1, "hand over": 1}
    assert fields["outer"]["tracking"] == "b-17"
    assert fields["inner"]["request.operations"]["pack"]["count"] == 1


def test_an_http_request_is_named_by_method_and_route(lines: Sent) -> None:
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    import clew.integrations.fastapi

    app = fastapi.FastAPI()
    clew.integrations.fastapi.instrument(app)

    @app.get("/orders/{number}")
    def order(number: int) -> int:
        pack()
        return 100 // number

    with TestClient(app, raise_server_exceptions=False) as client:
        client.get("/orders/0")
        client.get("/nowhere/17")
    first, second = (dict(record.attributes) for record in lines.canonical())
    assert (first["request.name"], first["http.request.method"], first["http.route"]) == (
        "GET /orders/{number}",
        "GET",
        "/orders/{number}",
    )
    assert (first["http.response.status_code"], first["error.type"]) == (500, "ZeroDivisionError")
    assert first["request.operations"]["pack"]["count"] == 1
    assert (second["request.name"], second["http.response.status_code"]) == ("GET", 404)
    assert "http.route" not in second


def test_a_line_of_wsgi_names_the_rule_that_flask_found(lines: Sent) -> None:
    flask = pytest.importorskip("flask")
    import clew.integrations.flask

    app = flask.Flask(__name__)
    clew.integrations.flask.instrument(app, metrics=False)

    @app.get("/orders/<int:number>")
    def order(number: int) -> str:
        return str(number)

    app.test_client().get("/orders/7").close()
    assert lines.line()["request.name"] == "GET /orders/<int:number>"


def test_a_method_that_nobody_knows_is_not_on_the_line(lines: Sent) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b""]

    serve(wsgi.RequestMiddleware(app), REQUEST_METHOD="ANYTHING-17")
    assert lines.line()["request.name"] == "_OTHER"


def test_the_line_comes_with_the_last_part_of_the_body(lines: Sent) -> None:
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        seen.append(len(lines.canonical()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        seen.append(len(lines.canonical()))
        pack()  # in the background

    ask(asgi.RequestMiddleware(app))
    assert seen == [0, 1]
    assert len(lines.canonical()) == 1


def test_a_websocket_has_a_line_when_it_ends(lines: Sent) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    ask(asgi.RequestMiddleware(app), "websocket")
    assert lines.line()["request.name"] == "websocket"


def test_a_run_of_a_task_is_named_by_the_task(lines: Sent) -> None:
    from clew.integrations._shared.task_runs import TaskRun

    with TaskRun("shop.send", queue="orders") as run:
        run.call(send_order)
    fields = lines.line()
    assert fields["request.name"] == "shop.send"
    assert fields["messaging.destination.name"] == "orders"
    assert fields["request.operations"]["shop.send"]["count"] == 1


def test_the_line_of_a_request_whose_records_are_dropped_stays(follow: Callable[..., Sent]) -> None:
    sent = follow(logs="interesting", logs_slow=NEVER, logs_canonical=True)
    with clew.request():
        logger.info("dropped")
        pack()
    assert len(sent.texts()) == len(sent.canonical()) == 1
    with suppress(ValueError), clew.request():
        logger.info("kept")
        raise ValueError
    assert sent.texts()[1] == "kept"
    assert sent.texts()[2].startswith("request failed (ValueError)")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a wrapped handler of the root logger writes."""
    text = io.StringIO()
    handler = HoldingHandler(logging.StreamHandler(text))
    logging.getLogger().addHandler(handler)
    yield text
    logging.getLogger().removeHandler(handler)


def test_the_line_goes_to_the_handlers_of_the_application_too(follow: Callable[..., Sent], stream: io.StringIO) -> None:
    follow(logs="interesting", logs_slow=NEVER, logs_canonical=True)
    with clew.request():
        logger.info("dropped")
    assert stream.getvalue().startswith("request succeeded in 0.")
    assert len(stream.getvalue().splitlines()) == 1


def test_a_level_that_the_application_sets_for_the_lines_counts(lines: Sent) -> None:
    target = logging.getLogger("clew.canonical")
    assert target.level == logging.INFO
    target.setLevel(logging.WARNING)
    try:
        with clew.request():
            pass
        assert lines.canonical() == []
    finally:
        target.setLevel(logging.INFO)


def test_dict_config_that_switches_off_what_it_does_not_name_leaves_the_lines(lines: Sent) -> None:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    loggers = [found for found in root.manager.loggerDict.values() if isinstance(found, logging.Logger)]
    enabled = [found for found in loggers if not found.disabled]
    try:
        logging.config.dictConfig({"version": 1, "root": {"level": "WARNING"}})
        assert logging.getLogger("clew.canonical").disabled
        with clew.request():
            pass
        assert len(lines.canonical()) == 1
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
        for found in enabled:
            found.disabled = False


def test_the_attribute_of_the_request_id_has_its_configured_name(follow: Callable[..., Sent]) -> None:
    sent = follow(logs_canonical=True, request_id_attribute="rid")
    with clew.request("r-1"):
        pass
    assert sent.line()["rid"] == "r-1"


def test_after_the_shutdown_there_are_no_lines_and_the_level_is_as_it_was(lines: Sent) -> None:
    lines.recorded.telemetry.shutdown()
    with clew.request():
        pass
    assert lines.canonical() == []
    assert logging.getLogger("clew.canonical").level == logging.NOTSET
