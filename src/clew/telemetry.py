"""`clew.configure()`, and what it returns: the life of the telemetry of a process."""

# What is private here is private to the module, not to each class.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from clew import lifetime
from clew.__about__ import __version__
from clew.delivery import PeriodicReader, deliver
from clew.delivery.foreign import ForeignSender
from clew.diagnostics import counts, warn_once
from clew.failures import Expected
from clew.interpreter.locks import renew_in_child
from clew.logs import tracking
from clew.metrics.deferred import run_deferred
from clew.metrics.recorder import PortableRecorder, Recorder
from clew.metrics.sharded_recorder import ShardedMeterProvider, ShardedRecorder
from clew.operations import pipeline
from clew.operations.bind import import_bindings
from clew.policy import policy
from clew.providers.arguments import ProviderArguments
from clew.providers.signals import Signals, build
from clew.settings import ConfigurationError, Settings, load_settings
from clew.settings.arguments import comparable, differences

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk._logs import LogRecordProcessor
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
    from opentelemetry.sdk.metrics.view import View
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import TracerProvider
    from typing_extensions import Unpack  # for type checkers alone, which know it without the package

    from clew.logs.held import HeldLogs
    from clew.settings.clew_variables import ClewArguments

__all__ = ["ConfigurationError", "Telemetry", "configure"]

T = TypeVar("T", bound="Telemetry")

_LONGEST_TIMEOUT = 86_400.0

_lock = threading.RLock()
renew_in_child(globals(), "_lock")
_configured: Telemetry | None = None


class Telemetry:
    """What `clew.configure()` returns: it sends what has been measured, and ends it.

    Attributes:
        settings: The settings in force.
    """

    def __init__(self, settings: Settings, arguments: Mapping[str, Any], signals: Signals) -> None:
        self.settings = settings
        self._arguments = arguments
        self._signals = signals
        self._ending = threading.Lock()
        self._outcome: bool | None = None
        self._is_started = False
        self._is_without_code = False

    @property
    def meter_provider(self) -> MeterProvider:
        """The MeterProvider that is recorded into; a no-op one where telemetry is disabled."""
        return self._signals.meter_provider

    @property
    def tracer_provider(self) -> TracerProvider:
        """The TracerProvider that spans of operations come from; a no-op one where telemetry is disabled."""
        return self._signals.tracer_provider

    @property
    def logger_provider(self) -> LoggerProvider | None:
        """The LoggerProvider that log records go to; None where they go nowhere."""
        provider: LoggerProvider | None = self._signals.logger_provider
        return provider

    @property
    def shutdown_timeout(self) -> float:
        """How long the end of the process may take, in seconds (``CLEW_SHUTDOWN_TIMEOUT``)."""
        return self.settings.shutdown_timeout

    def force_flush(self, timeout: float = 10.0) -> bool:
        """Send all metrics, spans and log records there are, side by side.

        Args:
            timeout: In seconds; what has not been sent by then stays for the next time.

        Returns:
            False only where something was not delivered. It never raises, and may be called from any thread.
        """
        run_deferred()
        return deliver([*self._signals.senders, *self._signals.foreign], closing=False, timeout=timeout)

    def release_held(self, timeout: float) -> bool:
        """Send what is held too, as `force_flush` does; log records are held no more, since the process is to end."""
        tracking.release_held()
        return self.force_flush(timeout)

    def shutdown(self, timeout: float = 3.0) -> bool:
        """Send all that there is, as `force_flush` does, and measure no more; `clew.configure()` may begin anew.

        A provider that the application built is flushed and goes on.

        Args:
            timeout: In seconds; what has not been sent by then is dropped, counted and logged.

        Returns:
            False only where something was not delivered. It never raises, and may be called again: that waits for the
            first call if it is under way, and returns what the first one returned.
        """
        run_deferred()
        with lifetime.ending():
            return self._shutdown(timeout, [*self._signals.senders, *self._signals.foreign])

    def end(self, *, at_exit: bool = False) -> None:
        """Shut down at the end of the process, within ``CLEW_SHUTDOWN_TIMEOUT``."""
        # the providers that the application built register with `atexit` themselves, and for no other end
        self._shutdown(
            self.settings.shutdown_timeout, [*self._signals.senders, *(() if at_exit else self._signals.foreign)]
        )

    def _shutdown(self, timeout: float, senders: Sequence[Any]) -> bool:
        if not self._ending.acquire(timeout=max(0.0, min(timeout, _LONGEST_TIMEOUT))):
            return False
        try:
            if self._outcome is None:
                self._measure_no_more()
                if not self._is_started and counts():  # nothing was measured, but there is something to tell
                    self._start()
                self._outcome = deliver(senders, closing=True, timeout=timeout)
                self._signals.remove_added_readers()
                lifetime.unregister(self)
            return self._outcome
        finally:
            self._ending.release()

    def _measure_no_more(self) -> None:
        global _configured
        with _lock:
            if _configured is self:
                _configured = None
                pipeline.use(None)
                _track_requests(None)
                if self._signals.logger_provider is not None:
                    log_handler().uninstall()

    def configured_again(self, arguments: Mapping[str, Any]) -> Telemetry:
        """Answer a further `configure()` that is given these arguments; `clew.testing` answers otherwise."""
        if self._arguments != arguments:
            first = "what the first call gave"
            if self._is_without_code:
                first = "what `clew run` or opentelemetry-instrument has configured this process with"
            raise ConfigurationError(differences(self._arguments, arguments, first))
        if self._signals.enabled and threading.current_thread() is threading.main_thread():
            lifetime.handle_sigterm()  # which a server may have taken away from its workers
        return self

    def begin_in_child(self) -> None:
        """Begin anew in a forked child: what the parent had is the parent's to send."""
        self._ending = threading.Lock()
        self._signals.restart_in_child()
        if _configured is self and self._is_started:
            self._start()

    def _begin(self) -> None:
        """Let measurements go to the providers."""
        signals = self._signals
        meter_provider = signals.meter_provider
        if self._is_without_code and isinstance(meter_provider, ShardedMeterProvider):
            meter_provider.on_first_measurement(self._start)
        else:
            self._start()
        pipeline.use(
            new_pipeline(
                self.settings,
                signals,
                ShardedRecorder(meter_provider)
                if isinstance(meter_provider, ShardedMeterProvider)
                else PortableRecorder(meter_provider),
            )
        )
        _track_requests(self.settings)
        line = signals.destinations(self.settings)  # before the handler is there: it is not exported
        warn_once(("sends", line), "%s", line, level=logging.INFO)
        if signals.logger_provider is not None:
            log_handler().install(signals.logger_provider)

    def _start(self) -> None:
        self._is_started = True
        for sender in self._signals.senders:
            if isinstance(sender, (PeriodicReader, ForeignSender)):
                sender.start()


def new_pipeline(settings: Settings, signals: Signals, recorder: Recorder) -> pipeline.Pipeline:
    """Make the pipeline that the settings describe."""
    import_bindings()
    return pipeline.Pipeline(
        signals.meter_provider,
        recorder,
        tracer=signals.tracer_provider.get_tracer("clew", __version__),
        spans=settings.spans,
        expected=Expected.of(settings.expected),
        cardinality_limit=settings.cardinality_limit,
        tracks_requests=settings.logs == "interesting" or settings.logs_canonical,
    )


def log_handler() -> Any:
    """Import the handler of log records only where there is somewhere to send them."""
    from clew.logs_bridge import handler

    return handler


def _track_requests(settings: Settings | None) -> None:
    """Track each request from its beginning to its end, where the settings ask for that; None: track none."""
    held_logs: HeldLogs | None = None
    if settings is not None and settings.logs == "interesting":
        from clew.logs.held import HeldLogs

        held_logs = HeldLogs(slow=settings.logs_slow, sample_ratio=settings.logs_sample_ratio)
    tracking.use(held_logs, canonical=settings is not None and settings.logs_canonical)


def set_policy(settings: Settings) -> None:
    """Name and pass on request IDs, and expect exceptions, as the settings say."""
    policy.header = settings.request_id_header
    policy.attribute = settings.request_id_attribute
    policy.trust = settings.trust_request_id
    policy.hosts = settings.request_id_hosts
    policy.baggage = settings.request_id_baggage
    policy.expected = Expected.of(settings.expected)


def configure(
    *,
    resource: Resource | Mapping[str, Any] | None = None,
    views: Sequence[View] = (),
    metric_exporters: Sequence[MetricExporter] | None = None,
    metric_readers: Sequence[MetricReader] | None = None,
    span_processors: Sequence[SpanProcessor] | None = None,
    log_processors: Sequence[LogRecordProcessor] | None = None,
    **settings: Unpack[ClewArguments],
) -> Telemetry:
    """Configure OpenTelemetry and `clew` from the environment, and begin to record.

    Reads the standard ``OTEL_*`` variables and a few ``CLEW_*`` ones, sets OTel's global MeterProvider, TracerProvider
    and LoggerProvider and sends the records of `logging`. A provider that the application has set before is used as it
    is, and what is given for it here is added to it. What has been measured is sent at the end of the process by
    itself. It belongs in the main thread, where SIGTERM can be handled.

    Args:
        resource: Attributes of the resource, over those of the environment.
        views: The application's own Views.
        metric_exporters, metric_readers: Where metrics go, instead of ``OTEL_METRICS_EXPORTER``.
        span_processors: Where spans go, instead of ``OTEL_TRACES_EXPORTER``.
        log_processors: Where log records go, instead of ``OTEL_LOGS_EXPORTER``.
        settings: Each ``CLEW_*`` variable in lower case without its prefix, such as ``spans=True``.

    Returns:
        The `Telemetry` that `force_flush()` and `shutdown()` belong to. Called again with the same arguments, the same.

    Raises:
        ConfigurationError: Settings are wrong: all of them, each with its name, its value and what is allowed. Or it
            has been called before with other arguments and not been shut down since.
        TypeError: There is no setting of that name.
    """
    given = ProviderArguments(views, metric_exporters, metric_readers, span_processors, log_processors)
    arguments = comparable({**vars(given), "resource": resource, **settings})
    with _lock:
        if _configured is not None:
            return _configured.configured_again(arguments)
        return _configure(given, arguments, resource=resource, **settings)


def configure_without_code() -> Telemetry:
    """Configure as `configure()` does without arguments, for a program that does not do it itself.

    Wrong variables are logged and treated as unset, unless ``CLEW_STRICT`` is true, and nothing is started before the
    first measurement. Where there is a configuration already, that is returned.

    Raises:
        ConfigurationError: Settings are wrong, and ``CLEW_STRICT`` is true.
    """
    with _lock:
        if _configured is not None:
            return _configured
        strict = None if is_strict(os.environ) else False
        given = ProviderArguments()
        return _configure(given, comparable(vars(given)), is_without_code=True, resource=None, strict=strict)


class Configured(NamedTuple):
    """What the `Telemetry` that is configured was made of."""

    settings: Settings
    arguments: Mapping[str, Any]
    signals: Signals


@contextmanager
def replaced_by(make: Callable[[Configured | None], T]) -> Generator[T, None, None]:
    """Let another `Telemetry` stand in the place of the one that is configured, in a ``with`` block.

    What was in force before is so again afterwards, but for a `Telemetry` that has been shut down meanwhile.

    Args:
        make: Given what is configured, or None, makes the other one and lets it record.
    """
    global _configured
    from clew.in_force import InForce

    with _lock:
        before, in_force = _configured, InForce()
        what = None if before is None else Configured(before.settings, before._arguments, before._signals)
        replacement = _configured = make(what)
    try:
        yield replacement
    finally:
        with _lock:
            is_over = before is not None and before._outcome is not None
            _configured = None if is_over else before
            in_force.restore(is_over=is_over)


def is_strict(environ: Mapping[str, str]) -> bool:
    """Tell whether ``CLEW_STRICT`` asks for wrong settings to end a start without code."""
    return environ.get("CLEW_STRICT", "").strip().lower() == "true"


def _configure(
    given: ProviderArguments, arguments: Mapping[str, Any], *, is_without_code: bool = False, **settings: Any
) -> Telemetry:
    global _configured
    loaded, signals = _built(given, **settings)
    telemetry = Telemetry(loaded, arguments, signals)
    telemetry._is_without_code = is_without_code
    set_policy(loaded)
    if signals.enabled:
        telemetry._begin()
        lifetime.register(telemetry)
        if loaded.measure or "clew.by_name" in sys.modules:
            from clew.by_name import measure_by_name

            measure_by_name(loaded.measure)
    _configured = telemetry
    return telemetry


def _built(given: ProviderArguments, **settings: Any) -> tuple[Settings, Signals]:
    """Read the settings and build what they say; a variable is treated as unset where it is wrong and not strict."""
    environ = dict(os.environ)
    while True:
        loaded = _loaded(environ, given, **settings)
        try:
            return loaded, build(loaded, given, settings["resource"])
        except ConfigurationError as error:  # what cannot be made of values that could be read
            wrong = environ.keys() & {problem.name for problem in error.problems}
            if loaded.strict or not wrong:
                raise
            warn_once(("settings", str(error)), "%s\nthese are treated as unset", error)
            for name in wrong:
                del environ[name]


def _loaded(environ: Mapping[str, str], given: ProviderArguments, **settings: Any) -> Settings:
    problems = given.problems()
    try:
        loaded = load_settings(environ, **settings)
    except ConfigurationError as error:
        raise ConfigurationError([*error.problems, *problems]) from None
    if problems:
        raise ConfigurationError(problems)
    return loaded
