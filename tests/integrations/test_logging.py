"""Records of `logging`: in formats of one's own, and sent as OpenTelemetry log records."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from recorded import Recorded

import clew
from clew.any_value import nearest_value
from clew.integrations.logging import LogHandler, RequestIdFilter
from clew.logs_bridge.handler import install, uninstall
from clew.logs_bridge.request_id_processor import RequestIdLogRecordProcessor
from clew.logs_bridge.translation import severity_of, translate
from clew.policy import policy

logger = logging.getLogger("shop.orders")


@pytest.fixture(autouse=True)
def every_level() -> Iterator[None]:
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(logging.NOTSET)


# in a format of one's own


def formatted(*records: logging.LogRecord) -> list[str]:
    handler = logging.handlers.BufferingHandler(100)
    handler.addFilter(RequestIdFilter())
    formatter = logging.Formatter("%(request_id)s %(message)s")
    for record in records:
        handler.handle(record)
    return [formatter.format(record) for record in handler.buffer]


def record(message: str = "hello", **more: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelno": logging.INFO, "levelname": "INFO", **more})


def failed_request(name: str) -> BaseException:
    try:
        with clew.request(name):
            raise ValueError("the request failed")
    except ValueError as error:
        return error


def test_the_filter_sets_the_id_inside_a_request_and_a_dash_outside() -> None:
    with clew.request("abc"):
        assert formatted(record()) == ["abc hello"]
    assert formatted(record()) == ["- hello"]


def test_the_filter_leaves_what_a_record_has() -> None:
    with clew.request("abc"):
        assert formatted(record(request_id="its-own")) == ["its-own hello"]


def test_the_traceback_of_a_failed_request_has_its_id() -> None:
    error = failed_request("abc")
    exc_info = (type(error), error, error.__traceback__)
    assert formatted(record(exc_info=exc_info))[0].startswith("abc hello")
    with clew.request("another"):
        assert formatted(record(exc_info=exc_info))[0].startswith("another hello")


def test_extra_request_id_of_the_application_does_not_raise(logged: Any) -> None:
    with clew.request("abc"):
        logger.info("hello", extra={"request_id": "its-own"})
    assert logged.one("hello").attributes["request_id"] == "its-own"


def test_the_recipe_for_dict_config_works() -> None:
    done = run(
        """
        import logging.config, clew
        from clew.integrations import logging as integration
        recipe = integration.__doc__.split("```python")[1].split("```")[0]
        exec(recipe)
        with clew.request("abc"):
            logging.getLogger("shop").info("inside")
        logging.getLogger("shop").info("outside")
        """
    )
    assert [line.split(" ", 2)[2] for line in done.stderr.splitlines()] == ["abc INFO inside", "- INFO outside"]


def test_a_finalizer_may_log_in_the_middle_of_the_first_record_of_a_logger() -> None:
    done = run(
        """
        import json, logging, os
        os.environ.update(OTEL_METRICS_EXPORTER="none", OTEL_TRACES_EXPORTER="none")
        import clew
        from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

        class Late:
            def __del__(self):
                logging.getLogger("finalizer").warning("within")

        exporter = InMemoryLogRecordExporter()
        telemetry = clew.configure(log_processors=[SimpleLogRecordProcessor(exporter)])
        loggers = telemetry.logger_provider._active_loggers
        added = type(loggers).add
        def add(one):
            del loggers.add
            Late()
            added(loggers, one)
        loggers.add = add  # is called with the locks of the provider taken
        logging.getLogger("shop").warning("outer")
        print(json.dumps(sorted(found.log_record.body for found in exporter.get_finished_logs())))
        """
    )
    assert json.loads(done.stdout) == ["outer", "within"]


def test_on_a_queue_handler_the_filter_sees_the_request_of_the_thread_that_logs() -> None:
    waiting: queue.Queue[Any] = queue.Queue()
    handler = logging.handlers.QueueHandler(waiting)
    handler.addFilter(RequestIdFilter())
    with clew.request("abc"):
        handler.handle(record())
    assert waiting.get_nowait().request_id == "abc"


# sent as OpenTelemetry log records


def test_a_record_is_sent_with_its_text_severity_place_and_request(logged: Any) -> None:
    with clew.request("abc"):
        logger.warning("stock of %s is low", "apples", extra={"shop.id": 7})
    sent = logged.one("stock of apples is low")
    assert sent.severity_number is SeverityNumber.WARN
    assert sent.severity_text == "WARNING"
    assert sent.attributes["request_id"] == "abc"
    assert sent.attributes["shop.id"] == 7
    assert sent.attributes["code.file.path"] == __file__
    assert sent.attributes["code.function.name"] == "test_a_record_is_sent_with_its_text_severity_place_and_request"
    assert sent.attributes["code.line.number"] > 100
    assert logged.exporter.get_finished_logs()[-1].instrumentation_scope.name == "shop.orders"


def test_outside_a_request_there_is_no_attribute(logged: Any) -> None:
    logger.info("outside", extra={"request_id": "-"})
    assert "request_id" not in logged.one("outside").attributes


def test_the_attribute_has_the_configured_name(configured: Callable[..., Recorded], log_records: Any) -> None:
    configured(log_processors=[log_records.processor], request_id_attribute="rid")
    with clew.request("abc"):
        logger.info("hello")
    assert log_records.one("hello").attributes["rid"] == "abc"
    assert policy.attribute == "rid"


def test_an_exception_is_sent_by_the_conventions(logged: Any) -> None:
    error = failed_request("abc")
    logger.error("it failed", exc_info=error)
    sent = logged.one("it failed")
    assert sent.attributes["exception.type"] == "ValueError"
    assert sent.attributes["exception.message"] == "the request failed"
    assert "failed_request" in sent.attributes["exception.stacktrace"]
    assert sent.attributes["request_id"] == "abc"


def test_the_record_carries_the_span_it_was_made_in(configured: Callable[..., Recorded], log_records: Any) -> None:
    recorded = configured(log_processors=[log_records.processor], spans=True)

    @clew.measure("work")
    def work() -> None:
        logger.info("inside")

    work()
    (span,) = recorded.spans()
    sent = log_records.one("inside")
    assert (sent.trace_id, sent.span_id) == (span.context.trace_id, span.context.span_id)


def test_levels_apply_as_ever(logged: Any) -> None:
    logger.setLevel(logging.WARNING)
    logger.info("too quiet")
    logger.setLevel(logging.DEBUG)
    logging.disable(logging.INFO)
    logger.info("disabled")
    logging.disable(logging.NOTSET)
    logger.debug("loud")
    assert logged.bodies() == ["loud"]


def test_arguments_that_do_not_fit_lose_nothing(log_records: Any) -> None:
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(log_records.processor)
    LogHandler(provider).handle(record("%d pieces", args=("many",)))
    assert log_records.bodies() == ["%d pieces ('many',)"]


def test_a_message_that_is_no_text_is_sent_as_it_is(logged: Any) -> None:
    logger.info({"event": "sold", "parts": [1, object]})
    (body,) = logged.bodies()
    assert body == {"event": "sold", "parts": [1, str(object)]}


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_what_cannot_be_printed_is_sent_with_what_can_be_said(logged: Any) -> None:
    logger.info("hello", extra={"thing": Unprintable()})
    assert "Unprintable" in logged.one("hello").attributes["thing"]


@given(
    st.recursive(
        st.one_of(st.none(), st.text(), st.binary(), st.integers(), st.floats(), st.booleans(), st.just(Unprintable())),
        lambda inner: st.lists(inner) | st.dictionaries(st.one_of(st.text(), st.integers()), inner),
    )
)
def test_any_value_becomes_one_that_can_be_sent(value: Any) -> None:
    made = nearest_value(value)
    assert isinstance(made, (str, bytes, int, float, bool, list, dict, type(None)))
    from opentelemetry.context import get_current

    translate(record(extra=value), get_current(), None, None)


@pytest.mark.parametrize(
    ("level", "severity"),
    [(0, 0), (5, 4), (10, 5), (11, 6), (19, 8), (20, 9), (30, 13), (40, 17), (50, 21), (51, 22), (99, 24), (-3, 0)],
)
def test_each_level_has_its_severity_number(level: int, severity: int) -> None:
    assert severity_of(level).value == severity


def test_the_handler_can_be_hung_on_a_logger_by_hand() -> None:
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    handler = LogHandler(provider, level=logging.WARNING)
    handler.setFormatter(logging.Formatter("<%(message)s>"))
    logger.addHandler(handler)
    try:
        logger.warning("hello")
        logger.info("too quiet")
    finally:
        logger.removeHandler(handler)
    assert [found.log_record.body for found in exporter.get_finished_logs()] == ["<hello>"]


def test_filters_and_levels_of_the_installed_handler_apply() -> None:
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    handler = install(provider, level="INFO")
    handler.addFilter(lambda found: "secret" not in found.getMessage())
    try:
        logger.info("hello")
        logger.info("a secret")
        logger.debug("too quiet")
    finally:
        uninstall()
    logger.info("after")
    assert [found.log_record.body for found in exporter.get_finished_logs()] == ["hello"]


def test_records_made_inside_an_export_are_not_sent(logged: Any) -> None:
    for key in (_SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation"):
        token = attach(set_value(key, True))
        try:
            logger.error("inside an export")
        finally:
            detach(token)
    logger.error("outside")
    assert logged.bodies() == ["outside"]


def test_a_processor_that_logs_or_raises_is_survived(
    configured: Callable[..., Recorded], caplog: pytest.LogCaptureFixture
) -> None:
    class Troubled(RequestIdLogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            logger.error("from inside the processor")
            raise RuntimeError("the processor failed")

    configured(log_processors=[Troubled()])
    logger.error("one")
    logger.error("two")
    assert len([found for found in caplog.records if "the processor failed" in found.getMessage()]) == 1


def test_a_record_that_another_handler_sends_is_sent_once(configured: Callable[..., Recorded]) -> None:
    from opentelemetry.sdk._logs import LoggingHandler

    exporter = InMemoryLogRecordExporter()
    processor = SimpleLogRecordProcessor(exporter)
    configured(log_processors=[processor])
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(processor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        others = [LoggingHandler(level=logging.WARNING, logger_provider=provider), LogHandler(provider)]
    for other, sent in zip(others, (["loud", "quiet"], ["loud", "quiet"]), strict=True):
        exporter.clear()
        logger.addHandler(other)
        try:
            logger.warning("loud")
            logger.info("quiet")
        finally:
            logger.removeHandler(other)
        assert [found.log_record.body for found in exporter.get_finished_logs()] == sent


@pytest.mark.parametrize("name", ["uvicorn.access", "gunicorn.error", "celery.task", "uvicorn"])
def test_loggers_that_servers_keep_from_the_root_are_handled_once(logged: Any, name: str) -> None:
    own = logging.getLogger(name)
    own.setLevel(logging.INFO)
    for propagate in (False, True):
        own.propagate = propagate
        logged.exporter.clear()
        own.info("served")
        logging.getLogger(f"{name}.child").info("below")
        own.propagate = True
        assert logged.bodies() == ["served", "below"]


def test_a_logger_that_the_application_keeps_from_the_root_is_not_handled(logged: Any) -> None:
    logger.propagate = False
    try:
        logger.info("private")
    finally:
        logger.propagate = True
    assert logged.bodies() == []


def test_log_records_that_others_emit_carry_the_id_by_the_processor() -> None:
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(RequestIdLogRecordProcessor())
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    emitting = provider.get_logger("framework")
    with clew.request("abc"):
        emitting.emit(body="inside")
        emitting.emit(body="its own", attributes={"request_id": "its-own"})
    emitting.emit(body="outside")
    found = [sent.log_record.attributes.get("request_id") for sent in exporter.get_finished_logs()]
    assert found == ["abc", "its-own", None]


def test_threads_that_log_at_once_lose_nothing(logged: Any) -> None:
    def work(number: int) -> None:
        with clew.request(f"r-{number}"):
            for step in range(20):
                logger.info("step %d of %d", step, number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = [found for found in logged.all() if str(found.body).startswith("step")]
    assert len(sent) == 160
    assert all(found.attributes["request_id"] == "r-" + found.body.split()[-1] for found in sent)


# as if it were absent


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=180
    )


CONFIGURED = """
import json, logging, logging.config, os, sys
os.environ.update(OTEL_METRICS_EXPORTER="none", OTEL_TRACES_EXPORTER="none")
import clew
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
exporter = InMemoryLogRecordExporter()
if {installed}:
    clew.configure(log_processors=[SimpleLogRecordProcessor(exporter)])
logger = logging.getLogger("shop")
{body}
print(json.dumps([found.log_record.body for found in exporter.get_finished_logs()]))
"""

SITUATIONS = {
    "nothing": 'logger.warning("loud"); logger.info("quiet")',
    "basicConfig": """
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
logger.info("after"); logger.debug("quiet")
""",
    "basicConfig from": """
from logging import basicConfig
basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
basicConfig(format="not used")
logger.info("after")
""",
    "basicConfig force": """
logging.basicConfig(level=logging.INFO)
logging.basicConfig(level=logging.INFO, format="F %(message)s", force=True)
logger.info("after")
""",
    "dictConfig": """
logging.config.dictConfig({"version": 1, "formatters": {"f": {"format": "D %(message)s"}},
    "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}},
    "root": {"handlers": ["h"], "level": "INFO"}, "disable_existing_loggers": False})
logger.info("after")
""",
    "fileConfig": '''
import io
logging.config.fileConfig(io.StringIO("""
[loggers]
keys=root
[handlers]
keys=h
[formatters]
keys=f
[logger_root]
level=INFO
handlers=h
[handler_h]
class=StreamHandler
formatter=f
args=(sys.stderr,)
[formatter_f]
format=C %(message)s
"""), disable_existing_loggers=False)
logger.info("after")
''',
    "root taken over": """
logging.getLogger().handlers = []
logging.getLogger().setLevel(logging.INFO)
logger.warning("loud"); logger.info("quiet")
""",
    "looking": """
print(logging.getLogger().handlers, logging.getLogger().hasHandlers(), logger.handlers, logger.level, file=sys.stderr)
print(logging.getLogger().level, file=sys.stderr)
logger.error("loud")
""",
    "handler that raises": """
class Broken(logging.Handler):
    def emit(self, record): raise RuntimeError("broken handler")
logging.getLogger().addHandler(Broken())
try:
    logger.error("loud")
except RuntimeError as error:
    print(error, file=sys.stderr)
""",
}

SENT = {
    "nothing": ["loud"],
    "root taken over": ["loud", "quiet"],
    "looking": ["loud"],
    "handler that raises": ["loud"],
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_application_sees_what_it_would_see_without_us_and_its_records_are_sent(situation: str) -> None:
    body = SITUATIONS[situation]
    without = run(CONFIGURED.format(installed=False, body=body))
    with_us = run(CONFIGURED.format(installed=True, body=body))
    assert with_us.stderr == without.stderr
    assert with_us.stderr
    assert json.loads(with_us.stdout) == SENT.get(situation, ["after"])
