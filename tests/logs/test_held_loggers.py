"""Handlers of the user's, streams of structlog and sinks of loguru that hold as the sending of log records does."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import logging.handlers
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from typing import Any

import pytest
from logs.conftest import Sent

import clew
from clew.integrations.logging import HoldingHandler, LogHandler, RequestIdFilter

logger = logging.getLogger("shop")


@pytest.fixture
def lines() -> Iterator[Callable[..., list[str]]]:
    """Add a handler that writes, wrapped, to the logger; returns what it has written."""
    added: list[logging.Handler] = []
    stream = io.StringIO()

    def add(line: str = "%(request_id)s %(message)s", **options: Any) -> Callable[[], list[str]]:
        target = logging.StreamHandler(stream)
        target.setFormatter(logging.Formatter(line))
        target.addFilter(RequestIdFilter())
        added.append(HoldingHandler(target, **options))
        logger.addHandler(added[-1])
        return lambda: stream.getvalue().splitlines()

    yield add  # type: ignore[misc]
    for handler in added:
        logger.removeHandler(handler)


def test_a_wrapped_handler_writes_at_once_where_nothing_is_held(follow: Callable[..., Sent], lines: Any) -> None:
    written = lines()
    with clew.request("r-0"):
        logger.info("before configure")
    follow()
    with clew.request("r-1"):
        logger.info("at once")
    assert written() == ["r-0 before configure", "r-1 at once"]


def test_a_wrapped_handler_writes_what_is_released_with_its_request(held: Sent, lines: Any) -> None:
    written = lines()
    with clew.request("good"):
        logger.info("good")
    with suppress(ValueError), clew.request("bad"):
        logger.info("bad")
        logger.warning("careful")
        raise ValueError
    logger.info("outside")
    assert written() == ["bad careful", "bad bad", "- outside"]
    assert held.texts() == ["careful", "bad", "outside"]


def test_a_handler_that_is_not_wrapped_sees_everything(held: Sent) -> None:
    handler = logging.handlers.BufferingHandler(100)
    logger.addHandler(handler)
    try:
        with clew.request():
            logger.info("seen")
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in handler.buffer] == ["seen"]
    assert held.texts() == []


def test_levels_and_filters_of_both_handlers_apply_when_a_record_comes(held: Sent, lines: Any) -> None:
    written = lines(level="INFO")
    (handler,) = [one for one in logger.handlers if isinstance(one, HoldingHandler)]
    handler.target.addFilter(lambda record: record.getMessage() != "filtered" and clew.request_id() is not None)
    with clew.request("r-1"):
        logger.debug("too low")
        logger.info("filtered")
        logger.info("found")
        handler.target.setLevel(logging.WARNING)
        logger.info("too low for the target")
        logger.error("failed")
    assert written() == ["r-1 found", "r-1 failed"]


def test_a_held_record_has_the_text_and_traceback_of_when_it_came(held: Sent, lines: Any) -> None:
    written = lines("%(message)s %(basket)s %(day)s")
    basket = ["tea"]
    with clew.request():
        try:
            raise ValueError("no " + basket[0])
        except ValueError as error:
            logger.info("has %s", basket, extra={"basket": basket, "day": date(2026, 1, 2)}, exc_info=error)
        basket.append("milk")
        logger.error("failed", extra={"basket": basket, "day": "-"})
    first, *trace, last = written()
    assert first == "has ['tea'] ['tea'] 2026-01-02"
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "ValueError: no tea"
    assert last == "failed ['tea', 'milk'] -"


def test_no_traceback_keeps_the_objects_of_a_request_alive(
    held: Sent, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", False)  # pytest's own handler keeps every record
    import gc
    import weakref

    class Large:
        pass

    lines()
    seen: list[weakref.ref[Large]] = []

    def work() -> None:
        large = Large()
        seen.append(weakref.ref(large))
        raise ValueError

    with clew.request():
        try:
            work()
        except ValueError:
            logger.info("caught", exc_info=True, extra={"basket": 1})
        gc.collect()
        assert seen[0]() is None


def test_what_listens_to_a_queue_writes_what_was_released(held: Sent) -> None:
    waiting: queue.Queue[Any] = queue.Queue()
    handler = HoldingHandler(logging.handlers.QueueHandler(waiting))
    logger.addHandler(handler)
    try:
        with clew.request():
            logger.info("dropped")
        with clew.request():
            logger.info("let %s", "go")
            logger.error("failed")
    finally:
        logger.removeHandler(handler)
    assert [waiting.get_nowait().getMessage() for _ in range(waiting.qsize())] == ["let go", "failed"]


@pytest.fixture
def dict_config() -> Iterator[Callable[[str], None]]:
    """Configure a handler to standard output, ``m``, and under a name one that wraps it, which the root logger has."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]

    def configure(name: str) -> None:
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {"line": {"format": "%(message)s"}},
                "handlers": {
                    "m": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"},
                    name: {"class": "clew.integrations.logging.HoldingHandler", "target": "cfg://handlers.m"},
                },
                "root": {"handlers": [name], "level": "INFO"},
            }
        )

    yield configure
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def test_dict_config_wraps_a_handler_by_reference(
    dict_config: Callable[[str], None], held: Sent, capsys: pytest.CaptureFixture[str]
) -> None:
    dict_config("m held")
    with clew.request():
        logger.info("dropped")
    with clew.request():
        logger.info("kept")
        logger.error("failed")
    assert capsys.readouterr().out.splitlines() == ["kept", "failed"]


def test_dict_config_says_when_the_wrapped_handler_comes_too_late(dict_config: Callable[[str], None]) -> None:
    with pytest.raises(ValueError) as refused:
        dict_config("a")
    assert "has to come after that of its target" in str(refused.value.__cause__)


@pytest.mark.parametrize("target", [None, "stderr", HoldingHandler(logging.NullHandler()), LogHandler(None)])  # type: ignore[arg-type]
def test_what_is_no_handler_that_writes_is_refused(target: Any) -> None:
    with pytest.raises(TypeError, match="HoldingHandler takes"):
        HoldingHandler(target)


def test_it_flushes_and_closes_the_handler_that_it_wraps() -> None:
    done: list[str] = []

    class Target(logging.Handler):
        def flush(self) -> None:
            done.append("flush")

        def close(self) -> None:
            done.append("close")
            super().close()

    handler = HoldingHandler(Target())
    handler.flush()
    handler.close()
    assert done == ["flush", "close"]


def test_a_handler_that_fails_when_records_are_released_reaches_nobody(held: Sent) -> None:
    class Sick(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("no room")

    handler = HoldingHandler(Sick(level="DEBUG"))
    logger.addHandler(handler)
    try:
        with suppress(ValueError), clew.request():
            logger.info("one")
            logger.info("two")
            raise ValueError
    finally:
        logger.removeHandler(handler)
    assert [text for text in held.texts() if text in ("one", "two")] == ["one", "two"]
    assert held.recorded.events() == {"held_logs.not_sent": 2}


def test_a_record_whose_values_cannot_be_rendered_is_left_to_the_handler_that_writes(
    held: Sent, lines: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Sick(logging.Formatter):
        def formatException(self, ei: Any) -> str:
            raise RuntimeError("no traceback today")

    written = lines()
    (handler,) = [one for one in logger.handlers if isinstance(one, HoldingHandler)]
    handler.target.setFormatter(Sick("%(message)s"))
    with clew.request():
        try:
            raise ValueError
        except ValueError:
            logger.info("not to be formatted", exc_info=True)
        logger.error("failed")
    assert "no traceback today" in capsys.readouterr().err, "logging reports it as it does what a handler cannot write"
    assert written() == ["failed"]


@pytest.mark.parametrize("level", [logging.INFO, logging.ERROR])
def test_what_logs_when_it_is_collected_with_a_held_record_holds_nothing_up(
    level: int, held: Sent, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", False)  # pytest's own handler keeps every record
    monkeypatch.setattr("clew.logs.held.RECORDS_PER_REQUEST", 2)
    monkeypatch.setattr("clew.logs.held.HeldLogs._watch_in_thread", lambda _: None)  # it may look at a record just then
    written = lines("%(message)s")

    class Loud:
        def __del__(self) -> None:
            logger.log(level, "collected")

    def log() -> None:
        with clew.request():
            for number in range(3):
                logger.info("%d", number, extra={"_object": Loud()})
            if level < logging.ERROR:
                logger.error("failed")

    thread = threading.Thread(target=log, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    expected = ["1", "2"] if level == logging.ERROR else ["1", "2", "failed"]
    assert [line for line in written() if line != "collected"] == expected
    assert "collected" in written()


# structlog


@pytest.fixture
def structlog() -> Iterator[Any]:
    structlog = pytest.importorskip("structlog")
    yield structlog
    structlog.reset_defaults()


def test_lines_of_structlog_are_held_as_they_were_rendered(structlog: Any, held: Sent) -> None:
    from clew.integrations.structlog import HoldingLoggerFactory, add_request_id

    stream = io.StringIO()
    structlog.configure(
        processors=[add_request_id, structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=HoldingLoggerFactory(structlog.WriteLoggerFactory(stream)),
        cache_logger_on_first_use=False,
    )
    log = structlog.get_logger()
    basket = ["tea"]
    with clew.request("good"):
        log.info("dropped")
    with clew.request("bad"):
        log.debug("looked", basket=basket)
        basket.append("milk")
        log.warning("careful")
        log.error("failed")
    log.info("outside")
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line.get("request_id")) for line in written] == [
        ("careful", "bad"),
        ("looked", "bad"),
        ("failed", "bad"),
        ("outside", None),
    ]
    assert written[1]["basket"] == ["tea"]


def test_events_of_structlog_that_go_through_logging_are_held_by_its_handlers(structlog: Any, held: Sent) -> None:
    stream = io.StringIO()
    target = logging.StreamHandler(stream)
    target.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ]
        )
    )
    handler = HoldingHandler(target)
    logger.addHandler(handler)
    structlog.configure(
        processors=[structlog.stdlib.add_logger_name, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    log = structlog.get_logger("shop")
    try:
        with clew.request():
            try:
                raise ValueError("no tea")
            except ValueError:
                log.info("caught", exc_info=True, basket=["tea"])
            log.error("failed")
    finally:
        logger.removeHandler(handler)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["basket"], second["event"]) == ("caught", ["tea"], "failed")
    assert first["exception"].endswith("ValueError: no tea")


def test_a_factory_of_logging_is_refused_with_what_to_do_instead(structlog: Any) -> None:
    from clew.integrations.structlog import HoldingLoggerFactory

    with pytest.raises(TypeError, match="wrap the handlers"):
        HoldingLoggerFactory(structlog.stdlib.LoggerFactory())
    with pytest.raises(TypeError, match="takes a factory"):
        HoldingLoggerFactory(None)  # type: ignore[arg-type]


# loguru


@pytest.fixture
def loguru() -> Iterator[Any]:
    loguru = pytest.importorskip("loguru")
    loguru.logger.remove()
    yield loguru.logger
    loguru.logger.remove()
    loguru.logger.configure(patcher=lambda record: None)


def test_lines_of_loguru_are_held_as_they_were_formatted(loguru: Any, held: Sent) -> None:
    from clew.integrations.loguru import add_request_id, holding

    stream = io.StringIO()
    called: list[Any] = []
    loguru.configure(patcher=add_request_id)
    loguru.add(holding(stream), format="{extra[request_id]} {level} {message}", backtrace=False)
    loguru.add(holding(called.append), format="{message}")
    with clew.request("good"):
        loguru.info("dropped")
    with clew.request("bad"):
        try:
            raise ValueError("no tea")
        except ValueError:
            loguru.opt(exception=True).info("looked")
        loguru.warning("careful")
        loguru.error("failed")
    loguru.info("outside")
    first, second, *trace, last_but_one, last = stream.getvalue().splitlines()
    assert [first, second, last_but_one, last] == [
        "bad WARNING careful",
        "bad INFO looked",
        "bad ERROR failed",
        "- INFO outside",
    ]
    assert trace[-1] == "ValueError: no tea"
    assert [message.record["message"] for message in called] == ["careful", "looked", "failed", "outside"]


def test_loguru_can_write_through_a_wrapped_handler_of_logging(loguru: Any, held: Sent) -> None:
    stream = io.StringIO()
    loguru.add(HoldingHandler(logging.StreamHandler(stream)), format="{message}")
    with clew.request():
        loguru.info("dropped")
    with clew.request():
        loguru.info("kept")
        loguru.error("failed")
    assert stream.getvalue().split() == ["kept", "failed"]


@pytest.mark.parametrize("sink", [None, "shop.log", 3])
def test_what_is_no_sink_to_hold_for_is_refused(sink: Any) -> None:
    pytest.importorskip("loguru")
    from clew.integrations.loguru import holding

    with pytest.raises(TypeError, match="takes a stream or a callable"):
        holding(sink)
