"""What the bad requests of a window share that the others do not: values of attributes, the strongest first."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from clew.answers.source import Series
from clew.answers.statistics import lift

_BAD_NEEDED = 2  # bad requests that have to share a value
_ALIKE = 0.05  # requests that two values may differ in and still divide them alike: this share of all that have one
_FIRST = ("service.name", "service.instance.id", "operation.name", "http.route", "rpc.method")
_OUTCOMES = {  # what makes a request bad, and what only names it
    "request_id",
    "process.pid",
    "error",
    "level",
    "severity",
    "http.response.status_code",
    "http.status_code",
    "rpc.grpc.status_code",
    "rpc.response.status_code",
    "otel.metric.overflow",
}
_OUTCOME_PREFIXES = ("error.", "exception.", "severity.", "otel.status_", "code.")

Value = tuple[str, str]
"""An attribute and its value as JSON, so that ``True``, ``1`` and ``1.0`` are three."""


@dataclass(frozen=True)
class SharedValue:
    """A value that bad requests have more often than the rest. `basis` is ``counts`` or ``samples``.

    `also` are other values that divide the requests in the same way, and so tell nothing new.
    """

    attribute: str
    value: Any
    share_of_bad: float
    share_of_rest: float
    lift: float
    lower: float
    basis: str
    also: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])

    def as_json(self) -> dict[str, Any]:
        """Return this as ``--format json`` shows it."""
        return {
            "attribute": self.attribute,
            "value": self.value,
            "share_of_bad": self.share_of_bad,
            "share_of_rest": self.share_of_rest,
            "lift": self.lift,
            "basis": self.basis,
            "also": [{"attribute": attribute, "value": value} for attribute, value in self.also],
        }


@dataclass
class Request:
    """What is known of one request; `seen` if a span or a log line of it is there."""

    failed: bool = False
    slow: bool = False
    seen: bool = False
    values: set[Value] = field(default_factory=set[Value])


class Count(NamedTuple):
    """The calls that one series counted in the window, and how many of them were bad."""

    series: Series
    bad: float
    all: float


def values(*attributes: Mapping[str, Any]) -> set[Value]:
    """Return the values that may be a cause, without what makes a request bad or only names it."""
    return {
        (key, json.dumps(value, sort_keys=True))
        for group in attributes
        for key, value in group.items()
        if key not in _OUTCOMES and not key.startswith(_OUTCOME_PREFIXES)
    }


def shared_values(counts: Sequence[Count], requests: Iterable[Request]) -> list[SharedValue]:
    """Return what stands out, each division of the requests once, the strongest first.

    Resource attributes, operation and metric attributes are compared by what the histograms counted, the attributes of
    spans and log lines by the requests that were seen. A value of a span that divides the requests as a counted value
    does (a port as its instance) is left to the counts, which are the fairer sample.
    """
    by_counts = _shared_by_counts(counts)
    counted = {name for count in counts for name in (*count.series.resource_attributes, *count.series.attributes)}
    holders, bad, total = _holders([request for request in requests if request.seen])
    of_counted = {value: having for value, having in holders.items() if value[0] in counted}
    by_samples: list[tuple[Set[int], SharedValue]] = []
    for shared in _shared_by_samples(holders, bad, total, counted):
        having = holders[_value(shared)]
        twins = {value for value, others in of_counted.items() if _alike(having, others)}
        same = [one for value, one in by_counts.items() if value in twins]
        same += [one for others, one in by_samples if _alike(having, others)]
        if same:
            same[0].also.append((shared.attribute, shared.value))
        elif not twins:
            by_samples.append((having, shared))
    every = [*by_counts.values(), *(shared for _, shared in by_samples)]
    return sorted({id(shared): shared for shared in every}.values(), key=_strength)


def _shared_by_counts(counts: Sequence[Count]) -> dict[Value, SharedValue]:
    """Compare by what histograms counted; values that the same series have are one, named by the first."""
    having: dict[Value, set[int]] = defaultdict(set)
    for number, count in enumerate(counts):
        for value in values(count.series.resource_attributes, count.series.attributes):
            if count.all:
                having[value].add(number)
    bad = {value: sum(counts[number].bad for number in numbers) for value, numbers in having.items()}
    every = {value: sum(counts[number].all for number in numbers) for value, numbers in having.items()}
    all_bad, total = sum(count.bad for count in counts), sum(count.all for count in counts)
    found: dict[Value, SharedValue] = {}
    first: dict[frozenset[int], SharedValue] = {}
    for shared in sorted(_standing_out(bad, every, all_bad, total, "counts"), key=_strength):
        value = _value(shared)
        kept = found[value] = first.setdefault(frozenset(having[value]), shared)
        if kept is not shared:
            kept.also.append((shared.attribute, shared.value))
    return found


def _holders(seen: Sequence[Request]) -> tuple[dict[Value, set[int]], set[int], int]:
    """Return which of the requests seen have each value, which are bad, and how many there are."""
    holders: dict[Value, set[int]] = defaultdict(set)
    for number, request in enumerate(seen):
        for value in request.values:
            holders[value].add(number)
    return holders, {number for number, request in enumerate(seen) if request.failed or request.slow}, len(seen)


def _shared_by_samples(
    holders: Mapping[Value, set[int]], bad: set[int], total: int, counted: Set[str]
) -> list[SharedValue]:
    """Compare by the requests that were seen: the attributes of their spans and log lines that nothing counts.

    A request known from exemplars alone tells nothing of its attributes, and failed ones are kept more often.
    """
    having: dict[str, set[int]] = defaultdict(set)
    different: dict[str, int] = defaultdict(int)
    for (attribute, _), numbers in holders.items():
        having[attribute] |= numbers
        different[attribute] += 1
    identifiers = {name for name, number in different.items() if number >= 3 and number > len(having[name]) / 2}
    candidates = {
        value: numbers for value, numbers in holders.items() if value[0] not in identifiers and value[0] not in counted
    }
    found = _standing_out(
        {value: float(len(numbers & bad)) for value, numbers in candidates.items()},
        {value: float(len(numbers)) for value, numbers in candidates.items()},
        len(bad),
        total,
        "samples",
    )
    return sorted(found, key=_strength)


def _standing_out(
    bad: Mapping[Value, float], every: Mapping[Value, float], all_bad: float, total: float, basis: str
) -> list[SharedValue]:
    found: list[SharedValue] = []
    for (attribute, value), count in bad.items():
        if count < _BAD_NEEDED:
            continue
        compared = lift(count, all_bad, every[attribute, value] - count, total - all_bad)
        if compared.lower > 1:
            found.append(SharedValue(attribute, json.loads(value), *compared, basis))
    return found


def _alike(some: Set[int], others: Set[int]) -> bool:
    """Return whether two values divide the requests alike: those near the window's edges may be seen in part."""
    if abs(len(some) - len(others)) > _ALIKE * max(len(some), len(others)):
        return False
    return len(some ^ others) <= _ALIKE * len(some | others)


def _value(shared: SharedValue) -> Value:
    return shared.attribute, json.dumps(shared.value, sort_keys=True)


def _strength(shared: SharedValue) -> tuple[float, int, str, str]:
    """Return a key that sorts by the lower bound of the lift, among equals service, instance and operation first."""
    rank = _FIRST.index(shared.attribute) if shared.attribute in _FIRST else len(_FIRST)
    return (-round(shared.lower, 9), rank, shared.attribute, json.dumps(shared.value))
