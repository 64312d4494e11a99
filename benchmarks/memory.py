"""Memory for 1,000 attribute sets: bytes that Python has allocated, in a fresh interpreter for each way.

Ten operations with a hundred attribute sets each, which is what `clew` allows by default. Each set gets four
measurements in a request, so exemplars are held as well: one a set where all fall into the first bucket, as those of a
measured function that does nothing do, or four where the values are spread over four buckets.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import tracemalloc
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import child
from benchmarks.contestant import BOUNDS, REQUEST_ID

OPERATIONS = 10
SETS = 100

ONE_BUCKET = (0.000001, 0.000002, 0.000003, 0.000004)
FOUR_BUCKETS = (0.0007, 0.004, 0.03, 0.2)

Record = Callable[[int, int, float], Any]
"""Records a value in seconds for an operation and an attribute set, both by number."""


def _hand_made() -> Record:
    from benchmarks.contestants.hand_written import Shard

    shards: dict[tuple[str, str], Shard] = {}

    def record(operation: int, number: int, value: float) -> None:
        key = f"operation-{operation}", f"set-{number}"
        shard = shards.get(key)
        if shard is None:
            shard = shards[key] = Shard()
        bucket = bisect_left(BOUNDS, value)
        shard.buckets[bucket] += 1
        shard.total += round(value * 1e9)
        shard.keep(bucket, round(value * 1e9))

    return record


def _clew() -> Record:
    import clew
    from benchmarks.reading import Reading

    clew.configure(metric_readers=[Reading().reader])

    def attributes_of(number: int) -> dict[str, str]:
        return {"tier": f"set-{number}"}

    def function(number: int) -> None:
        return None

    operations = [
        clew.measure(f"operation-{operation}", attributes=attributes_of)(function) for operation in range(OPERATIONS)
    ]

    def record(operation: int, number: int, value: float) -> None:
        operations[operation](number)

    return record


def _clew_histogram() -> Record:
    import clew
    from benchmarks.reading import Reading

    clew.configure(metric_readers=[Reading().reader])
    histogram = clew.histogram("duration", unit="s", scope="benchmarks", bounds=BOUNDS)

    def record(operation: int, number: int, value: float) -> None:
        histogram.record(value, {"operation.name": f"operation-{operation}", "tier": f"set-{number}"})

    return record


def _sdk(*, counted: bool) -> Record:
    from opentelemetry.sdk.metrics import MeterProvider

    import clew
    from benchmarks.reading import Reading

    provider = MeterProvider([Reading().reader], views=clew.views(), exemplar_filter=clew.exemplar_filter())
    meter = provider.get_meter("benchmarks")
    calls = meter.create_counter("calls")
    duration = meter.create_histogram("duration", unit="s", explicit_bucket_boundaries_advisory=BOUNDS)

    def record(operation: int, number: int, value: float) -> None:
        attributes = {"operation.name": f"operation-{operation}", "tier": f"set-{number}"}
        if counted:
            calls.add(1, attributes)
        duration.record(value, attributes)

    return record


def _prometheus() -> Record:
    import clew
    from benchmarks.contestants.prometheus import Metrics

    metrics = Metrics("operation", "tier")

    def record(operation: int, number: int, value: float) -> None:
        labels = f"operation-{operation}", f"set-{number}"
        exemplar = {"request_id": clew.request_id() or ""}
        metrics.calls.labels(*labels).inc(1, exemplar)
        metrics.duration.labels(*labels).observe(value, exemplar)

    return record


@dataclass(frozen=True)
class Way:
    """One way to hold the sets: its name in the table, how it is made, what it is given, by how many threads."""

    label: str
    make: Callable[[], Record]
    values: tuple[float, ...] = ONE_BUCKET
    threads: int = 1


WAYS = {
    "hand-made": Way("hand-made shards", _hand_made),
    "clew": Way("clew, decorator with a computed attribute", _clew),
    "clew-threads": Way("clew, the same by four threads that all live", _clew, threads=4),
    "sdk-histogram": Way("OpenTelemetry SDK, histogram alone", lambda: _sdk(counted=False)),
    "sdk": Way("OpenTelemetry SDK, counter + histogram", lambda: _sdk(counted=True)),
    "prometheus": Way("prometheus_client, counter + histogram", _prometheus),
    "clew-four-buckets": Way("clew.histogram, exemplars in four buckets", _clew_histogram, FOUR_BUCKETS),
    "sdk-four-buckets": Way(
        "OpenTelemetry SDK, histogram, exemplars in four buckets", lambda: _sdk(counted=False), FOUR_BUCKETS
    ),
}


def measured(key: str) -> int:
    """Return the bytes that this interpreter holds for the attribute sets, before they are collected."""
    import clew

    way = WAYS[key]
    record = way.make()

    def fill(number: int) -> None:
        with clew.request(REQUEST_ID):
            for operation in range(OPERATIONS):
                for value in way.values:
                    record(operation, number, value)

    def fill_all() -> None:
        for number in range(1, SETS):
            fill(number)

    fill(0)  # what is made once for each operation is not counted
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    if way.threads == 1:
        fill_all()
        return _allocated_since(before)
    filled, measured_it = threading.Barrier(way.threads + 1), threading.Event()

    def work() -> None:
        fill_all()
        filled.wait()
        measured_it.wait()

    workers = [threading.Thread(target=work) for _ in range(way.threads)]
    for worker in workers:
        worker.start()
    filled.wait()
    found = _allocated_since(before)
    measured_it.set()
    for worker in workers:
        worker.join()
    return found


def _allocated_since(before: int) -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


def measure_memory(missing: list[str]) -> list[dict[str, Any]]:
    """Return bytes per 1,000 attribute sets of each way; ways that cannot be imported go to `missing`."""
    found: list[dict[str, Any]] = []
    for key, way in WAYS.items():
        try:
            held = child.run("-m", "benchmarks.memory", key)
        except RuntimeError as error:
            if "ModuleNotFoundError" not in str(error):
                raise
            missing.append(f"{key} (memory)")
            continue
        found.append({"key": key, "label": way.label, "bytes": round(held / (OPERATIONS * (SETS - 1)) * 1000)})
    return found


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1])))
