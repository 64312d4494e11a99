"""The OpenTelemetry SDK by hand: a counter and a histogram, with and without request ID exemplars; a span."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import clew
from benchmarks.contestant import BOUNDS, Contestant, Recorded
from benchmarks.contestants.hand_written import bare
from benchmarks.reading import Reading

GROUP = "OpenTelemetry SDK by hand"
SPANS = "spans"
NAME = "checkout"


def by_hand(function: Callable[..., Any], provider: MeterProvider, *, counted: bool = True) -> Callable[..., Any]:
    """Measure as most applications do: a decorator over a counter (where `counted`) and a histogram."""
    meter = provider.get_meter("benchmarks")
    calls = meter.create_counter("calls")
    duration = _histogram(provider)
    succeeded = {"operation.name": NAME}

    def with_counter(*args: Any, **kwargs: Any) -> Any:
        attributes = succeeded
        started = perf_counter()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            attributes = {**succeeded, "error.type": type(error).__qualname__}
            raise
        finally:
            calls.add(1, attributes)
            duration.record(perf_counter() - started, attributes)

    def alone(*args: Any, **kwargs: Any) -> Any:
        attributes = succeeded
        started = perf_counter()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            attributes = {**succeeded, "error.type": type(error).__qualname__}
            raise
        finally:
            duration.record(perf_counter() - started, attributes)

    return with_counter if counted else alone


def with_request_id_attribute(function: Callable[..., Any], provider: MeterProvider) -> Callable[..., Any]:
    """Measure with the request ID among the attributes of each call; a View moves it to the exemplars."""
    meter = provider.get_meter("benchmarks")
    calls = meter.create_counter("calls")
    duration = _histogram(provider)

    def measured(*args: Any, **kwargs: Any) -> Any:
        attributes: dict[str, Any] = {"operation.name": NAME, "request_id": clew.request_id()}
        started = perf_counter()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            attributes["error.type"] = type(error).__qualname__
            raise
        finally:
            calls.add(1, attributes)
            duration.record(perf_counter() - started, attributes)

    return measured


def _histogram(provider: MeterProvider) -> Any:
    return provider.get_meter("benchmarks").create_histogram(
        "duration", unit="s", explicit_bucket_boundaries_advisory=BOUNDS
    )


def with_request_ids(reading: Reading) -> MeterProvider:
    """Return a provider whose exemplars carry request IDs by `clew.views` and `clew.exemplar_filter`."""
    return MeterProvider([reading.reader], views=clew.views(), exemplar_filter=clew.exemplar_filter())


class CountingSpans(SpanProcessor):
    """Counts the spans that end, and exports nothing."""

    def __init__(self) -> None:
        self.ended = 0

    def on_end(self, span: ReadableSpan) -> None:
        self.ended += 1

    def recorded(self) -> Recorded:
        return Recorded({"spans": self.ended})


def _measured(
    key: str,
    label: str,
    make: Callable[[MeterProvider], Callable[..., Any]],
    provider: Callable[[Reading], MeterProvider],
    *,
    emits: Mapping[str, str],
    request_id: bool,
) -> tuple[Contestant, Reading]:
    reading = Reading()
    call = make(provider(reading))

    def recorded() -> Recorded:
        return Recorded(
            {metric: reading.total(metric, operation_name=NAME) for metric in emits},
            reading.has_request_id(next(iter(emits)), operation_name=NAME) if request_id else None,
        )

    words = [*emits.values(), *(["exemplar"] if request_id else [])]
    return Contestant(key, label, GROUP, call, ", ".join(words), recorded), reading


def _add(provider: MeterProvider) -> Callable[..., Any]:
    counter = provider.get_meter("benchmarks").create_counter("calls")
    attributes = {"operation.name": NAME}

    def add(value: float) -> float:
        counter.add(1, attributes)
        return value

    return add


def _record(provider: MeterProvider) -> Callable[..., Any]:
    histogram = _histogram(provider)
    attributes = {"operation.name": NAME}

    def record(value: float) -> float:
        histogram.record(value, attributes)
        return value

    return record


def contestants() -> tuple[list[Contestant], list[Reading]]:
    """Return the contestants, and the readings to be collected from time to time."""
    both = {"calls": "counter", "duration": "histogram"}
    made = [
        _measured(
            "sdk-no-exemplars",
            "counter + histogram, exemplars off",
            lambda provider: by_hand(bare, provider),
            lambda reading: MeterProvider([reading.reader], exemplar_filter=AlwaysOffExemplarFilter()),
            emits=both,
            request_id=False,
        ),
        _measured(
            "sdk-exemplars",
            "counter + histogram, exemplars on, no request ID",
            lambda provider: by_hand(bare, provider),
            lambda reading: MeterProvider([reading.reader], exemplar_filter=AlwaysOnExemplarFilter()),
            emits=both,
            request_id=False,
        ),
        _measured(
            "sdk-request-id-attribute",
            "counter + histogram, request ID dropped by a View",
            lambda provider: with_request_id_attribute(bare, provider),
            lambda reading: MeterProvider(
                [reading.reader],
                views=[View(instrument_name="*", attribute_keys={"operation.name", "error.type"})],
                exemplar_filter=AlwaysOnExemplarFilter(),
            ),
            emits=both,
            request_id=True,
        ),
        _measured(
            "sdk-request-id",
            "counter + histogram, request ID by clew.views",
            lambda provider: by_hand(bare, provider),
            with_request_ids,
            emits=both,
            request_id=True,
        ),
        _measured(
            "sdk-histogram-request-id",
            "histogram alone, request ID by clew.views",
            lambda provider: by_hand(bare, provider, counted=False),
            with_request_ids,
            emits={"duration": "histogram"},
            request_id=True,
        ),
        _measured(
            "sdk-counter",
            "counter.add(1, attributes), request ID by clew.views",
            _add,
            with_request_ids,
            emits={"calls": "counter"},
            request_id=True,
        ),
        _measured(
            "sdk-histogram",
            "histogram.record(value, attributes), request ID by clew.views",
            _record,
            with_request_ids,
            emits={"duration": "histogram"},
            request_id=True,
        ),
    ]
    return [*(contestant for contestant, _ in made), _span()], [reading for _, reading in made]


def _span() -> Contestant:
    spans = CountingSpans()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(spans)
    tracer = provider.get_tracer("benchmarks")

    def traced(value: float) -> float:
        with tracer.start_as_current_span(NAME):
            return value

    return Contestant("span", "tracer.start_as_current_span, nothing exported", SPANS, traced, "span", spans.recorded)
