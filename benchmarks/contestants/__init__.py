"""The contestants. Those whose package is not installed are left out, and named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.contestant import Contestant
from benchmarks.contestants import clew_forms, hand_written, opentelemetry_sdk
from benchmarks.reading import Reading


class Collected(Protocol):
    """What begins a new interval when it is collected."""

    def collect(self) -> None:
        """Collect."""


@dataclass
class Field:
    """All who take part.

    Attributes:
        contestants: In the order of the table.
        readings: To be collected between rounds, so that exemplars start afresh as they do in a running service.
        missing: What is left out, and why.
    """

    contestants: list[Contestant] = field(default_factory=list)
    readings: list[Collected] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def collect(self) -> None:
        for reading in self.readings:
            reading.collect()

    def mistakes(self) -> list[str]:
        """Say where what was recorded is not what was done."""
        self.collect()
        return [mistake for contestant in self.contestants for mistake in contestant.mistakes()]


def before_configure() -> Field:
    """Return those that are measured before `clew.configure()` is called."""
    return Field([*hand_written.baselines(), *hand_written.empty_wrappers(), *clew_forms.disabled()])


def after_configure(reading: Reading) -> Field:
    """Return all others; `clew.configure()` has been called with `reading`."""
    minimums, shards = hand_written.minimums()
    by_hand, readings = opentelemetry_sdk.contestants()
    everybody = Field(
        [
            *hand_written.baselines(),
            *hand_written.empty_wrappers(),
            *minimums,
            *clew_forms.enabled(reading),
            *by_hand,
        ],
        [reading, *shards, *readings],
    )
    for package, add in (("prometheus_client", _prometheus), ("autometrics", _autometrics), ("logfire", _logfire)):
        try:
            add(everybody)
        except ImportError as error:
            everybody.missing.append(f"{package} ({error})")
    groups = list(dict.fromkeys(one.group for one in everybody.contestants if one.group != opentelemetry_sdk.SPANS))
    everybody.contestants.sort(key=lambda one: (*groups, opentelemetry_sdk.SPANS).index(one.group))
    return everybody


def _prometheus(everybody: Field) -> None:
    from benchmarks.contestants import prometheus

    everybody.contestants += prometheus.contestants()


def _autometrics(everybody: Field) -> None:
    from benchmarks.contestants import autometrics_decorator

    contestants, readings = autometrics_decorator.contestants()
    everybody.contestants += contestants
    everybody.readings += readings


def _logfire(everybody: Field) -> None:
    from benchmarks.contestants import logfire_decorator

    everybody.contestants += logfire_decorator.contestants()
