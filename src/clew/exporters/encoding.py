"""Batches as OTLP messages, made by OpenTelemetry's encoders; what these cannot encode is replaced or left out.

The encoders fail for the whole batch at the first value that OTLP cannot carry, or drop an attribute and log that. So
a batch that fails is encoded once more: each value is replaced by the nearest one that can be sent, and an item that
even so cannot be encoded is left out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import Metric, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from clew.exporters.encodable import ResourcesAndScopes, encodable_log, encodable_metrics, encodable_span, with_points

Item = TypeVar("Item")


@dataclass(slots=True)
class Encoded:
    """A message, how many items of the batch are not in it, and why."""

    message: Any
    left_out: int = 0
    reason: str = ""


def encoded_metrics(data: MetricsData) -> Encoded:
    """Encode metrics; a point that cannot be encoded is left out."""
    message, _ = _try(encode_metrics, data)
    if message is not None:
        return Encoded(message)
    encoded = Encoded(None)

    def keep(metric: Metric) -> Metric:
        if _try(encode_metrics, _alone(metric))[0] is not None:
            return metric
        return with_points(
            metric,
            _keep_encodable(
                metric.data.data_points,
                lambda point: _try(encode_metrics, _alone(with_points(metric, [point]))),
                encoded,
            ),
        )

    encoded.message = encode_metrics(encodable_metrics(data, keep))
    return encoded


def encoded_spans(batch: Sequence[ReadableSpan]) -> Encoded:
    """Encode spans; one that cannot be encoded is left out."""
    return _items(batch, encode_spans, encodable_span)


def encoded_logs(batch: Sequence[ReadableLogRecord]) -> Encoded:
    """Encode log records; one that cannot be encoded is left out."""
    return _items(batch, encode_logs, encodable_log)


def _items(
    batch: Sequence[Item],
    encode: Callable[[Sequence[Item]], Any],
    to_encodable: Callable[[Item, ResourcesAndScopes], Item],
) -> Encoded:
    message, _ = _try(encode, batch)
    if message is not None:
        return Encoded(message)
    encoded = Encoded(None)
    shared = ResourcesAndScopes()
    kept: list[Item] = []

    def check(item: Item) -> tuple[Any, str]:
        message, reason = _try(encode, [item])
        if message is None:
            try:
                item = to_encodable(item, shared)
            except Exception as error:
                return None, _reason(error)
            message, reason = _try(encode, [item])
        if message is not None:
            kept.append(item)
        return message, reason

    _keep_encodable(batch, check, encoded)
    encoded.message = encode(kept)
    return encoded


def _keep_encodable(items: Sequence[Item], check: Callable[[Item], tuple[Any, str]], encoded: Encoded) -> list[Item]:
    """Return the items that can be encoded; count the others in `encoded`, with the reason."""
    kept: list[Item] = []
    for item in items:
        message, reason = check(item)
        if message is not None:
            kept.append(item)
        else:
            encoded.left_out += 1
            encoded.reason = encoded.reason or reason
    return kept


def _alone(metric: Metric) -> MetricsData:
    scope = ScopeMetrics(InstrumentationScope(""), [metric], "")
    return MetricsData([ResourceMetrics(Resource({}), [scope], "")])


class _EncoderLog(threading.local):
    is_listening = False
    has_failed = False


_encoder_log = _EncoderLog()


def _listen() -> None:
    """Notice when the encoders log an attribute that they leave out, at whatever level the application has set."""
    encoders = logging.getLogger("opentelemetry.exporter.otlp.proto.common._internal")
    say = encoders.exception

    def exception(*args: Any, **kwargs: Any) -> None:
        if _encoder_log.is_listening:
            _encoder_log.has_failed = True
        else:
            say(*args, **kwargs)

    encoders.exception = exception  # type: ignore[method-assign]


_listen()


def _try(encode: Callable[[Any], Any], batch: Any) -> tuple[Any, str]:
    """Return the message of a batch, or None and the reason why not all of it could be encoded."""
    _encoder_log.is_listening, _encoder_log.has_failed = True, False
    try:
        message = encode(batch)
    except Exception as error:
        return None, _reason(error)
    finally:
        _encoder_log.is_listening = False
    return (None, "an attribute cannot be encoded") if _encoder_log.has_failed else (message, "")


def _reason(error: Exception) -> str:
    original: Any = getattr(error, "original_exception", error)
    return f"it cannot be put into OTLP: {type(original).__name__}: {original}"
