"""The operations that series count: `clew`'s own, and requests, calls and messages of the semantic conventions.

Names and attributes follow OpenTelemetry's semantic conventions for HTTP, RPC and messaging.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from clew.answers.source import Series

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
_KINDS = {
    "operation.duration": "operation",
    "http.server.request.duration": "http",
    "rpc.server.call.duration": "rpc",
    "rpc.server.duration": "rpc",
    "messaging.process.duration": "messaging",
}
_GRPC_SERVER_ERRORS = {
    2: "UNKNOWN",
    4: "DEADLINE_EXCEEDED",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
}

INSTRUMENTS = tuple(_KINDS)
"""The histograms that hold durations of operations."""


class Operation(NamedTuple):
    """The operation that a series counts; `kind` is ``operation``, ``http``, ``rpc`` or ``messaging``."""

    service: str | None
    kind: str
    name: str


def operation_of(series: Series) -> Operation:
    """Return the operation that a series of one of the `INSTRUMENTS` belongs to."""
    attributes, kind = series.attributes, _KINDS[series.name]
    if kind == "operation":
        parts = [attributes.get("operation.name")]
    elif kind == "http":
        parts = [attributes.get("http.request.method"), attributes.get("http.route")]
    elif kind == "rpc":
        service, method = attributes.get("rpc.service"), attributes.get("rpc.method")
        parts = [f"{service}/{method}" if service and method else method or service]
    else:
        destination = attributes.get("messaging.destination.template") or attributes.get("messaging.destination.name")
        parts = [attributes.get("messaging.operation.name") or "process", destination]
    name = " ".join(str(part) for part in parts if part is not None)
    if not name and attributes.get("otel.metric.overflow"):
        name = "otel.metric.overflow"
    return Operation(series.service, kind, name or series.name)


def error_of(series: Series) -> str | None:
    """Return the error type of the calls that a series counts, None where they did not fail."""
    attributes = series.attributes
    if (error := attributes.get("error.type")) is not None:
        return str(error)
    if series.name.startswith("http."):
        status = _number(attributes.get("http.response.status_code"))
        return str(status) if status >= 500 else None
    if series.name.startswith("rpc."):
        return _GRPC_SERVER_ERRORS.get(_number(attributes.get("rpc.grpc.status_code")))
    return None


def seconds_per_unit(series: Series) -> float:
    """Return how many seconds one unit of a series is; an unknown unit is taken for seconds."""
    return _SECONDS.get(series.unit, 1.0)


def _number(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
