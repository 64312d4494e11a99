"""structlog's processor and loguru's patcher."""

from __future__ import annotations

import logging
import sys
from collections import namedtuple
from typing import Any

import pytest

import clew
from clew.integrations import loguru, structlog

Recorded = namedtuple("Recorded", "type value traceback")


def failed(name: str) -> BaseException:
    try:
        with clew.request(name):
            raise ValueError("the request failed")
    except ValueError as error:
        return error


def event(**fields: Any) -> dict[str, Any]:
    return dict(structlog.add_request_id(None, "info", dict(fields)))


def extra(**record: Any) -> str:
    made: dict[str, Any] = {"extra": {}, "exception": None, **record}
    loguru.add_request_id(made)
    return str(made["extra"]["request_id"])


def test_the_current_request_is_set_and_what_is_there_stays() -> None:
    with clew.request("abc"):
        assert event(event="x") == {"event": "x", "request_id": "abc"}
        assert event(request_id="its-own") == {"request_id": "its-own"}
        assert extra() == "abc"
        assert extra(extra={"request_id": "its-own"}) == "its-own"


def test_outside_a_request_structlog_has_no_key_and_loguru_a_dash() -> None:
    assert event(event="x") == {"event": "x"}
    assert extra() == "-"


def test_the_exception_of_a_failed_request_gives_its_id_afterwards() -> None:
    error = failed("abc")
    assert event(exc_info=error)["request_id"] == "abc"
    assert event(exc_info=(type(error), error, None))["request_id"] == "abc"
    assert extra(exception=Recorded(type(error), error, None)) == "abc"
    try:
        raise error
    except ValueError:
        assert sys.exc_info()[1] is error
        assert event(exc_info=True)["request_id"] == "abc"


def test_what_either_hands_to_logging_does_not_name_the_event(logged: Any) -> None:
    library = pytest.importorskip("structlog")
    sinks = pytest.importorskip("loguru").logger
    given = {"otel.event.name": "boom", "mine": 1}
    library.configure(
        processors=[library.stdlib.render_to_log_kwargs],
        logger_factory=library.stdlib.LoggerFactory(),
        wrapper_class=library.stdlib.BoundLogger,
    )
    sink = sinks.add(Through(), format="{message}")
    try:
        library.get_logger("shop").warning("of structlog", **given)
        sinks.bind(**given).warning("of loguru")
    finally:
        sinks.remove(sink)
        library.reset_defaults()
    ours, theirs = logged.one("of structlog"), logged.one("of loguru")
    assert [record.event_name for record in (ours, theirs)] == [None, None]
    assert [record.attributes.get("otel.event.name") for record in (ours, theirs)] == [None, None]
    assert ours.attributes["mine"] == theirs.attributes["extra"]["mine"] == 1


class Through(logging.Handler):
    """Hands the records of loguru to `logging`, as its documentation has it."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).handle(record)


def test_an_exc_info_that_is_none_of_these_is_survived() -> None:
    for exc_info in (None, False, True, (), (None, None, None), "text", 7):
        assert "request_id" not in event(exc_info=exc_info)
