"""The application's own providers: `clew` records into its MeterProvider, with or without `clew.configure()`."""

from __future__ import annotations

import os
from typing import Any

from opentelemetry import trace
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider

from clew.__about__ import __version__
from clew.diagnostics import warn_once
from clew.metrics.recorder import PortableRecorder
from clew.metrics.sdk.providers import on_meter_provider
from clew.operations import pipeline
from clew.operations.bind import import_bindings


def watch() -> None:
    """Adopt the global MeterProvider, now or when the application sets it."""
    on_meter_provider(_adopt)


def _adopt(provider: MeterProvider) -> None:
    if pipeline.current is not None or provider in pipeline.own_providers or isinstance(provider, NoOpMeterProvider):
        return
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    warn_of_missing_request_ids(provider)
    import_bindings()
    pipeline.use(pipeline.Pipeline(provider, PortableRecorder(provider), tracer=trace.get_tracer("clew", __version__)))


def warn_of_missing_request_ids(provider: MeterProvider) -> None:
    """Warn where a MeterProvider of the application keeps no request IDs on exemplars, and say what it needs."""
    if isinstance(provider, NoOpMeterProvider):
        warn_once("no-op provider", "The application has set a NoOpMeterProvider: nothing is measured")
        return
    from clew.metrics.sdk.views import lacks_request_ids  # only where there is a provider to look at

    lacks = lacks_request_ids(provider)
    if lacks:
        warn_once(
            "foreign provider",
            "The application's own MeterProvider keeps no request IDs on exemplars; build it with MeterProvider(%s, …)",
            ", ".join(lacks),
        )


def is_foreign(provider: Any) -> bool:
    """Tell whether the application has set this global provider; a proxy stands for one that is not set yet."""
    return provider not in pipeline.own_providers and not type(provider).__name__.lstrip("_").startswith("Proxy")


class ForeignProvider:
    """A provider that the application built, as a sender: it is flushed, and never shut down."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what the provider has; return False where it says that it failed."""
        flush = getattr(self._provider, "force_flush", None)
        return flush is None or flush(timeout_millis) is not False

    def shutdown(self, timeout_millis: int = 30_000) -> bool:
        """Send what the provider has, and leave it as it is."""
        return self.force_flush(timeout_millis)
