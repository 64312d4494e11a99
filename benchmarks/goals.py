"""What `clew` promises about its cost, compared with what a run has measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.contest import Results
from benchmarks.threads import Threaded


@dataclass(frozen=True)
class Goal:
    """One promise.

    Attributes:
        what: What is measured.
        limit: What it may be.
        measured: What it was, in the unit of `limit`; None where it was not measured in this run.
        at_least: Whether `limit` is the least, not the most.
        unit: Of both.
        spread: The quartiles, where there are any.
    """

    what: str
    limit: float
    measured: float | None
    at_least: bool = False
    unit: str = "x"
    spread: tuple[float, float] | None = None

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


_RATIOS = (
    ("sync decorator / hand-written minimum", "clew-decorator", "minimum", 1.15),
    (
        "sync decorator / OTel SDK by hand, request ID dropped by a View",
        "clew-decorator",
        "sdk-request-id-attribute",
        1 / 33,
    ),
    ("sync decorator / OTel SDK by hand, request ID by clew.views", "clew-decorator", "sdk-request-id", 1 / 33),
    (
        "sync decorator / prometheus_client, bound children, no exemplars",
        "clew-decorator",
        "prometheus-bound",
        1 / 2.7,
    ),
    ("async decorator / hand-written minimum, async", "clew-decorator-async", "minimum-async", 1.15),
    ("with block / sync decorator", "clew-block", "clew-decorator", 1.8),
    (
        "two computed attributes / prometheus_client.labels(…) per call",
        "clew-computed-attributes",
        "prometheus-labels",
        1 / 3,
    ),
)


def goals(
    contest: Results | None,
    disabled: Results | None,
    threads: list[Threaded] | None,
    memory: list[dict[str, Any]] | None,
    imports: dict[str, Any] | None,
    collection: dict[str, Any] | None,
) -> list[Goal]:
    """Return every promise; what was not measured in this run has no value."""
    return [
        *_of_contest(contest),
        *_of_disabled(disabled),
        *_of_threads(threads),
        *_of_memory(memory),
        *_of_the_rest(imports, collection),
    ]


def _of_contest(contest: Results | None) -> Iterator[Goal]:
    for what, key, against, limit in _RATIOS:
        if contest is None or key not in contest or against not in contest:
            yield Goal(what, limit, None)
        else:
            ratio = contest.ratio(key, against)
            yield Goal(what, limit, ratio.median, spread=(ratio.low, ratio.high))


def _of_disabled(disabled: Results | None) -> Iterator[Goal]:
    for what, key, against in (
        ("not configured: sync decorator / an empty wrapper", "disabled-decorator", "empty-wrapper"),
        ("not configured: async decorator / an empty async wrapper", "disabled-decorator-async", "empty-wrapper-async"),
    ):
        if disabled is None:
            yield Goal(what, 1.5, None)
        else:
            ratio = disabled.ratio(key, against)
            yield Goal(what, 1.5, ratio.median, spread=(ratio.low, ratio.high))


def _of_threads(threads: list[Threaded] | None) -> Iterator[Goal]:
    found = {one.key: one for one in threads or ()}.get("clew-decorator")
    what = "four threads: throughput / one thread's"
    if found is None:
        yield Goal(what, 0.95, None, at_least=True)
        yield Goal("four threads: measurements lost", 0, None, unit="")
        return
    yield Goal(what, 0.95, found.ratio.median, at_least=True, spread=(found.ratio.low, found.ratio.high))
    lost = sum(one.lost or 0 for one in threads or () if one.group == "clew")
    yield Goal("four threads: measurements lost", 0, lost, unit="")


def _of_memory(memory: list[dict[str, Any]] | None) -> Iterator[Goal]:
    held = {one["key"]: one["bytes"] for one in memory or ()}
    for what, key, against in (
        ("memory of 1,000 attribute sets / OTel SDK, counter + histogram", "clew", "sdk"),
        ("memory of 1,000 attribute sets / OTel SDK, histogram alone", "clew", "sdk-histogram"),
    ):
        yield Goal(what, 1 / 2, held[key] / held[against] if key in held and against in held else None)


def _of_the_rest(imports: dict[str, Any] | None, collection: dict[str, Any] | None) -> Iterator[Goal]:
    yield Goal(
        "import clew over importing the OTel metrics SDK",
        10,
        None if imports is None else imports["difference"]["median"],
        unit="ms",
        spread=None if imports is None else (imports["difference"]["low"], imports["difference"]["high"]),
    )
    yield Goal(
        "10,000 attribute sets collected and encoded / OTel SDK",
        1,
        None if collection is None else collection["ratio"]["median"],
        spread=None if collection is None else (collection["ratio"]["low"], collection["ratio"]["high"]),
    )
    yield Goal(
        "longest call of a recording thread during collections, 99.9th percentile",
        1,
        None if collection is None else collection["waits"]["clew"]["collecting"]["p999_ms"],
        unit="ms",
    )
