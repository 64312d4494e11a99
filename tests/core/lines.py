"""A program that interrupts work at each of its lines, as the handler of a signal would, and then looks at the counts.

``python lines.py own|foreign WORK INTERRUPTIONS STEP``: prints the number of lines, and what is not as it has to be.
The lines are those of `clew` and of OpenTelemetry's metrics, each STEP-th of them; WORK is repeated for each, and
INTERRUPTIONS, between commas, take turns.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import clew

_FOLDERS = (
    os.path.dirname(clew.__file__),
    os.path.join("opentelemetry", "sdk", "metrics"),
    os.path.join("opentelemetry", "metrics"),
)
_LONGEST = 20
_AT_ONCE = 30

Act = Callable[[], object]


class Interruption:
    """Calls `act` at line number `number` (from 0) of `work`."""

    def __init__(self, number: int, work: Act, act: Act) -> None:
        self._left = number
        self._act = act
        self.where = ""
        faulthandler.dump_traceback_later(_LONGEST, exit=True)
        sys.settrace(self._enter)
        try:
            work()
        finally:
            sys.settrace(None)
            faulthandler.cancel_dump_traceback_later()

    def _enter(self, frame: Any, event: str, _: Any) -> Any:
        if self.where or not any(folder in frame.f_code.co_filename for folder in _FOLDERS):
            return None
        return self._step

    def _step(self, frame: Any, event: str, _: Any) -> Any:
        if event == "line" and not self.where:
            self._left -= 1
            if self._left < 0:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                sys.settrace(None)
                self._act()
        return self._step


def operation(name: str) -> None:
    @clew.measure(name)
    def decorated() -> None:
        pass

    decorated()


def computed(name: str) -> None:
    @clew.measure(name, attributes=lambda tier: {"tier": tier})
    def decorated(tier: str) -> None:
        pass

    decorated("gold")


def block(name: str) -> None:
    with clew.measure(name):
        pass


def told(name: str) -> None:
    with clew.measure(name) as m:
        m.set("tier", "gold")


def generator(name: str) -> None:
    @clew.measure(name)
    def decorated() -> Any:
        yield

    list(decorated())


def plain(name: str) -> None:
    meter = reader.provider.get_meter("plain")
    meter.create_counter(name).add(1)


GOLD = {"tier": "gold"}
USES: dict[str, Callable[[str], object]] = {
    "counter": lambda name: clew.counter(name).add(1),
    "up-down": lambda name: clew.up_down_counter(name).add(1),
    "histogram": lambda name: clew.histogram(name).record(1),
    "gauge": lambda name: clew.gauge(name).set(1),
    "bound": lambda name: clew.counter(name).bind(GOLD).add(1),
    "bound-gauge": lambda name: clew.gauge(name).bind(GOLD).set(1),
    "operation": operation,
    "computed": computed,
    "block": block,
    "told": told,
    "generator": generator,
    "gauge-again": lambda name: clew.gauge("gauge").set(1),
    "new-set": lambda name: clew.counter("counter").add(1, {"set": name}),
    "plain": plain,
    "collection": lambda name: reader.get_metrics_data(),
}
ATTRIBUTES: dict[str, Any] = {"bound": GOLD, "bound-gauge": GOLD, "computed": GOLD, "told": GOLD}


def expected(kind: str, name: str, times: int) -> dict[Any, float]:
    """What has to be there of a use."""
    attributes = ATTRIBUTES.get(kind, {})
    if kind == "collection":
        return {}
    if kind == "gauge-again":
        return {key_of("gauge", {}): 1}
    if kind == "new-set":
        return {key_of("counter", {"set": name}): times}
    if kind in ("operation", "computed", "block", "told", "generator"):
        named = {"operation.name": name}
        return {key_of("operation.duration", {**named, **attributes}): times, key_of("operation.active", named): 0}
    return {key_of(name, attributes): 1 if "gauge" in kind else times}


def key_of(name: str, attributes: Any) -> Any:
    return name, tuple(sorted(attributes.items()))


class Reader(InMemoryMetricReader):
    provider: Any

    def values(self) -> dict[Any, float]:
        """Collect, and return the values and counts of all points, each of which is there once."""
        self.collect()  # what was deferred is recorded with a collection at the latest
        found: dict[Any, float] = {}
        data = self.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        key = key_of(metric.name, point.attributes or {})
                        assert key not in found, key
                        found[key] = point.value if hasattr(point, "value") else point.count
        return found


reader: Reader


def begin(whose: str) -> clew.Telemetry:
    """Configure with a reader of its own, and use all kinds once."""
    global reader
    reader = Reader()
    if whose == "own":
        telemetry = clew.configure(metric_readers=[reader], span_processors=[], log_processors=[])
        reader.provider = telemetry.meter_provider
    else:
        from clew.metrics.recorder import PortableRecorder
        from clew.operations import pipeline

        views, exemplar_filter = clew.views(), clew.exemplar_filter()
        reader.provider = MeterProvider([reader], views=views, exemplar_filter=exemplar_filter, shutdown_on_exit=False)
        telemetry = clew.configure(metric_readers=[], span_processors=[], log_processors=[])
        pipeline.use(pipeline.Pipeline(reader.provider, PortableRecorder(reader.provider)))
    for kind, use in USES.items():
        use(kind)
    return telemetry


def main(whose: str, work: str, interruptions: list[str], step: int) -> None:
    number, lines, is_over = 0, 0, False
    while not is_over:
        telemetry = begin(whose)
        wanted: dict[Any, float] = {}
        where: dict[Any, str] = {}
        for _ in range(_AT_ONCE):
            name, other = f"{work}.{number}", f"other.{number}"
            interruption = interruptions[lines % len(interruptions)]
            if interruption == "itself":
                act, values = (lambda: USES[work](name)), expected(work, name, 2)  # noqa: B023
            else:
                act = lambda: USES[interruption](other)  # noqa: B023, E731
                values = {**expected(work, name, 1), **expected(interruption, other, 1)}
            done = Interruption(number, lambda: USES[work](name), act)  # noqa: B023
            if not done.where:
                is_over = True
                break
            wanted |= values
            where |= dict.fromkeys(values, done.where)
            number += step
            lines += 1
        found = reader.values()
        for key, value in wanted.items():
            if found.get(key) != value:
                print("WRONG", key, found.get(key), "instead of", value, "interrupted at", where[key])
        telemetry.shutdown()
    print("LINES", lines)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3].split(","), int(sys.argv[4]))
