"""Collection: how long 10,000 attribute sets take to collect and encode, and who waits for it.

Run in a fresh interpreter, since it fills the provider that `clew.configure()` builds. 1,900 of the sets are those of
19 operations, with a hundred each; 8,100 are those of nine histograms, bound beforehand, with 900 each. That is within
every default limit. The SDK has the same number of series with the same buckets, the same values and the same request
ID exemplars.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, perf_counter_ns, thread_time_ns
from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import clew
from benchmarks import child
from benchmarks.contest import garbage
from benchmarks.contestant import BOUNDS, REQUEST_ID
from benchmarks.statistics import quantile, spread

OPERATIONS, SETS_EACH = 19, 100
HISTOGRAMS, SETS_OF_HISTOGRAM = 9, 900
SETS = OPERATIONS * SETS_EACH + HISTOGRAMS * SETS_OF_HISTOGRAM

SOME_VALUES = (0.0007, 0.03)


@dataclass
class Side:
    """One of the two that are compared.

    Attributes:
        reader: What collects.
        fill: Records into each attribute set, so that every one has exemplars to be collected.
        call: A measured call, for the thread that records meanwhile.
        records: How many measurements a `fill` makes.
    """

    reader: InMemoryMetricReader
    fill: Callable[[], None]
    call: Callable[[float], Any]
    records: int

    def collected_and_encoded(self) -> bytes:
        data = self.reader.get_metrics_data()
        assert data is not None
        return encode_metrics(data).SerializeToString()


def _clew() -> Side:
    reader = InMemoryMetricReader()
    clew.configure(metric_readers=[reader])

    def attributes_of(number: int) -> dict[str, str]:
        return {"tier": f"set-{number}"}

    def function(number: int) -> None:
        return None

    operations = [
        clew.measure(f"operation-{number}", attributes=attributes_of)(function) for number in range(OPERATIONS)
    ]
    bound = [
        clew.histogram(f"histogram-{name}", unit="s", scope="benchmarks", bounds=BOUNDS).bind(
            {"operation.name": "checkout", "tier": f"set-{number}"}
        )
        for name in range(HISTOGRAMS)
        for number in range(SETS_OF_HISTOGRAM)
    ]

    @clew.measure("recording")
    def recording(value: float) -> float:
        return value

    def fill() -> None:
        with clew.request(REQUEST_ID):
            for value in SOME_VALUES:
                for histogram in bound:
                    histogram.record(value)
                for operation in operations:
                    for number in range(SETS_EACH):
                        operation(number)

    return Side(reader, fill, recording, SETS * len(SOME_VALUES))


def _sdk() -> Side:
    from benchmarks.contestants.hand_written import bare
    from benchmarks.contestants.opentelemetry_sdk import by_hand

    reader = InMemoryMetricReader()
    provider = MeterProvider(
        [reader], views=clew.views(), exemplar_filter=clew.exemplar_filter(), shutdown_on_exit=False
    )
    meter = provider.get_meter("benchmarks")

    def histogram(name: str) -> Any:
        return meter.create_histogram(name, unit="s", explicit_bucket_boundaries_advisory=BOUNDS)

    duration = histogram("operation.duration")
    series = [
        (duration, {"operation.name": f"operation-{name}", "tier": f"set-{number}"})
        for name in range(OPERATIONS)
        for number in range(SETS_EACH)
    ] + [
        (histogram(f"histogram-{name}"), {"operation.name": "checkout", "tier": f"set-{number}"})
        for name in range(HISTOGRAMS)
        for number in range(SETS_OF_HISTOGRAM)
    ]

    def fill() -> None:
        with clew.request(REQUEST_ID):
            for value in SOME_VALUES:
                for instrument, attributes in series:
                    instrument.record(value, attributes)

    return Side(reader, fill, by_hand(bare, provider), SETS * len(SOME_VALUES))


def _counted(side: Side, repetitions: int) -> list[str]:
    """Say where the points are not those that were filled in."""
    data = side.reader.get_metrics_data()
    assert data is not None
    points = [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if hasattr(point, "count") and "tier" in (point.attributes or {})
    ]
    wrong = []
    if len(points) != SETS:
        wrong.append(f"{len(points)} points instead of {SETS}")
    total = sum(point.count for point in points)
    if total != side.records * repetitions:
        wrong.append(f"{total} measurements instead of {side.records * repetitions}")
    return wrong


def _times(sides: dict[str, Side], repetitions: int, order: random.Random) -> dict[str, list[tuple[float, float]]]:
    """Return milliseconds of collecting, and of collecting and encoding: of processor time."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repetitions):
        turns = list(sides)
        order.shuffle(turns)
        for name in turns:
            side = sides[name]
            side.fill()
            with garbage(collected=False):
                started = thread_time_ns()
                data = side.reader.get_metrics_data()
                collected = thread_time_ns()
                assert data is not None
                encode_metrics(data).SerializeToString()
                encoded = thread_time_ns()
            found[name].append(((collected - started) / 1e6, (encoded - started) / 1e6))
    return found


def _waits(call: Callable[[float], Any], meanwhile: Callable[[], Any], seconds: float) -> tuple[array[int], int]:
    """Return how long each call of a recording thread took, in nanoseconds, and how often `meanwhile` was run."""
    took: array[int] = array("q")
    stop = threading.Event()

    def work() -> None:
        clock, note, stopped = perf_counter_ns, took.append, stop.is_set
        with clew.request(REQUEST_ID):
            while not stopped():
                started = clock()
                call(0.004)
                note(clock() - started)

    worker = threading.Thread(target=work)
    worker.start()
    times = 0
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        meanwhile()
        times += 1
    stop.set()
    worker.join()
    return took, times


def _compute() -> None:
    """Keep the interpreter as busy as a collection does, without touching what a recording thread needs."""
    sum(number * number for number in range(200_000))


def _summary(took: array[int], times: int) -> dict[str, float]:
    rising = sorted(took)
    return {
        "calls": len(rising),
        "runs": times,
        "median_ns": quantile(rising, 0.5),
        "p999_ms": quantile(rising, 0.999) / 1e6,
        "p9999_ms": quantile(rising, 0.9999) / 1e6,
        "longest_ms": rising[-1] / 1e6,
    }


def measured(repetitions: int, seconds: float, turns: int) -> dict[str, Any]:
    """Return times and waits of both sides.

    Args:
        repetitions: Of collecting and encoding.
        seconds: How long a thread records while collections run, each turn.
        turns: Of that, for each side and with and without collections.
    """
    sides = {"clew": _clew(), "sdk": _sdk()}
    order = random.Random(7)
    times = _times(sides, repetitions, order)
    wrong = [f"{name}: {mistake}" for name, side in sides.items() for mistake in _counted(side, repetitions)]
    gc.freeze()
    waits: dict[str, dict[str, tuple[array[int], int]]] = {
        name: {"collecting": (array("q"), 0), "computing": (array("q"), 0)} for name in sides
    }
    for _ in range(turns):
        pairs = [(name, meanwhile) for name in sides for meanwhile in ("collecting", "computing")]
        order.shuffle(pairs)
        for name, meanwhile in pairs:
            side = sides[name]
            run = side.collected_and_encoded if meanwhile == "collecting" else _compute
            took, often = _waits(side.call, run, seconds)
            waits[name][meanwhile][0].extend(took)
            waits[name][meanwhile] = waits[name][meanwhile][0], waits[name][meanwhile][1] + often
    return {
        "sets": SETS,
        "mistakes": wrong,
        "collect_ms": {name: spread([one for one, _ in times[name]]).as_json() for name in sides},
        "collect_and_encode_ms": {name: spread([both for _, both in times[name]]).as_json() for name in sides},
        "ratio": _ratio(times).as_json(),
        "waits": {name: {what: _summary(*found) for what, found in waits[name].items()} for name in sides},
    }


def _ratio(times: dict[str, list[tuple[float, float]]]) -> Any:
    return spread([ours[1] / theirs[1] for ours, theirs in zip(times["clew"], times["sdk"], strict=True)])


def measure_collections(*, quick: bool) -> dict[str, Any]:
    """Return what a fresh interpreter finds."""
    amounts = ("2", "0.3", "1") if quick else ("9", "1.0", "3")
    found: dict[str, Any] = child.run("-m", "benchmarks.collecting", *amounts)
    return found


if __name__ == "__main__":
    print(json.dumps(measured(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))
