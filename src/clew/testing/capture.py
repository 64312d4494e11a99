"""Lets a test capture what the process records, and puts everything back as it was."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from opentelemetry import propagate
from opentelemetry.sdk._logs import LoggerProvider

from clew.logs_bridge import handler
from clew.logs_bridge.request_id_processor import RequestIdLogRecordProcessor
from clew.providers.arguments import ProviderArguments
from clew.providers.signals import Signals, build, propagator
from clew.settings import Settings, load_settings
from clew.telemetry import Configured, replaced_by, set_policy
from clew.testing.telemetry import CapturedTelemetry, CapturingLogRecordProcessor, active, captured_providers
from clew.testing.watch import RequestWatch

_NOT_IN_TESTS = ("OTEL_SDK_DISABLED", "OTEL_CONFIG_FILE")

# the providers of tests whose application has none: built once, since OpenTelemetry's global ones are set once

_own: Signals | None = None
_own_logs: LoggerProvider | None = None


def _own_signals() -> tuple[Settings, Signals]:
    """Return the providers of tests, with the settings as the environment has them now."""
    global _own
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_IN_TESTS}
    settings = load_settings(environ, strict=True)
    if _own is None:
        _own = build(
            settings,
            ProviderArguments(metric_readers=[], span_processors=[], log_processors=[CapturingLogRecordProcessor()]),
            None,
        )
        captured_providers.add(_own.logger_provider)
    propagate.set_global_textmap(propagator(settings))
    set_policy(settings)
    return settings, _own


def _log_provider(signals: Signals) -> Any:
    """Return where the records of `logging` go: a LoggerProvider for tests where the application has none."""
    global _own_logs
    if signals.logger_provider is not None:
        return signals.logger_provider
    if _own_logs is None:
        _own_logs = LoggerProvider(shutdown_on_exit=False)
        for processor in (RequestIdLogRecordProcessor(), CapturingLogRecordProcessor()):
            _own_logs.add_log_record_processor(processor)
        captured_providers.add(_own_logs)
    return _own_logs


@contextmanager
def capture(watch: RequestWatch | None = None) -> Generator[CapturedTelemetry, None, None]:
    """Capture everything that is recorded in a ``with`` block: what the fixture `telemetry` does for a test.

    What was configured before is in force again afterwards. It is for the whole process, so there is one at a time.

    Args:
        watch: The requests that count; None for those that begin from now on.

    Raises:
        AssertionError: At the end of the block: it asked for a name that nothing has (`CapturedTelemetry.calls`).
        ConfigurationError: A variable of the environment has a value that it does not take.
    """
    own_watch = RequestWatch() if watch is None else None
    requests = cast("RequestWatch", watch or own_watch)
    try:
        with replaced_by(lambda before: _begin(before, requests)) as captured:
            try:
                yield captured
                if said := captured.unknown_names():
                    raise AssertionError(said)
            finally:
                active.remove(captured)
                captured.detach()
    finally:
        if own_watch is not None:
            own_watch.end()


def _begin(before: Configured | None, watch: RequestWatch) -> CapturedTelemetry:
    """Begin to capture, by the providers that are configured or by those of tests."""
    arguments: Mapping[str, Any] = {}
    if before is not None and before.signals.enabled:
        settings, arguments, signals = before
    else:
        settings, signals = _own_signals()
    captured = CapturedTelemetry(settings, arguments, signals, watch)
    captured.attach()
    captured.record()
    if handler.installed() is None:
        handler.install(_log_provider(signals))
    active.append(captured)
    return captured
