"""The RPC server metric of the semantic conventions: ``rpc.server.call.duration`` (histogram, seconds).

A plain OpenTelemetry instrument of the MeterProvider that `clew` records into.
Reference: https://opentelemetry.io/docs/specs/semconv/rpc/rpc-metrics/
"""

from __future__ import annotations

from time import perf_counter

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from clew.__about__ import __version__
from clew.diagnostics import report_failure
from clew.integrations._shared.http_metrics import BOUNDS, PerPipeline
from clew.operations.pipeline import Pipeline

# spelled out, since the package still has these names among the ones that may move
RPC_SERVER_CALL_DURATION = "rpc.server.call.duration"
RPC_METHOD = "rpc.method"
RPC_SYSTEM_NAME = "rpc.system.name"
RPC_RESPONSE_STATUS_CODE = "rpc.response.status_code"


class RpcInstrument:
    """The histogram of one scope."""

    __slots__ = ("_histogram", "_scope")

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._histogram = PerPipeline(self._make)

    def begin(self, system: str, method: str) -> RpcMeasurement | None:
        """Begin to measure one call, or return None where nothing is recorded; never raises."""
        try:
            found = self._histogram.get()
            return None if found is None else RpcMeasurement(*found, {RPC_SYSTEM_NAME: system, RPC_METHOD: method})
        except Exception as error:
            _not_measured(error)
            return None

    def _make(self, current: Pipeline) -> Histogram:
        return current.meter_provider.get_meter(self._scope, __version__).create_histogram(
            RPC_SERVER_CALL_DURATION,
            unit="s",
            description="Measures the duration of an incoming Remote Procedure Call (RPC).",
            explicit_bucket_boundaries_advisory=BOUNDS,
        )


class RpcMeasurement:
    """The measurement of one call, from its start to its end."""

    __slots__ = ("_attributes", "_histogram", "_pipeline", "_started")

    def __init__(self, pipeline: Pipeline, histogram: Histogram, attributes: dict[str, str]) -> None:
        self._pipeline = pipeline
        self._histogram = histogram
        self._attributes = attributes
        self._started = perf_counter()

    def end(self, *, status: str, error_type: str | None, context: Context) -> None:
        """Record the duration; only where the call began: not in a forked child."""
        seconds = perf_counter() - self._started
        if not self._pipeline.is_open:
            return
        try:
            attributes = {**self._attributes, RPC_RESPONSE_STATUS_CODE: status}
            if error_type is not None:
                attributes[ERROR_TYPE] = error_type
            self._histogram.record(max(seconds, 0.0), attributes, context)
        except Exception as error:
            _not_measured(error)


def _not_measured(error: Exception) -> None:
    report_failure("rpc.not_measured", error, "A remote procedure call could not be measured")
