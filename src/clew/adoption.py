"""The application's own MeterProvider: `clew` records into it, with or without `clew.configure()`."""

from __future__ import annotations

import os

from opentelemetry import trace
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider

from clew import pipeline
from clew.__about__ import __version__
from clew.diagnostics import say_once
from clew.metrics import sdk
from clew.metrics.recorder import PortableRecorder


def watch() -> None:
    """Adopt the global MeterProvider, now or when the application sets it."""
    sdk.on_meter_provider(_adopt)


def _adopt(provider: MeterProvider) -> None:
    if pipeline.current is not None or provider in pipeline.ours or isinstance(provider, NoOpMeterProvider):
        return
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    say_what_lacks(provider)
    pipeline.use(pipeline.Pipeline(provider, PortableRecorder(provider), tracer=trace.get_tracer("clew", __version__)))


def say_what_lacks(provider: MeterProvider) -> None:
    """Say once what keeps request IDs off the exemplars of a MeterProvider that the application built."""
    lacks = sdk.lacks_request_ids(provider)
    if lacks:
        say_once(
            "foreign provider",
            "The application's own MeterProvider keeps no request IDs on exemplars; build it with MeterProvider(%s, …)",
            ", ".join(lacks),
        )
