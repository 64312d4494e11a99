"""A clock that stands still but for the time that the measured code of a test adds."""

from __future__ import annotations

import pytest

from clew import _measure
from clew.operations import awaited, bindings, fast_path, generators, run, wrappers


class StoppedClock:
    """Stands for `perf_counter`. Its time is in whole nanoseconds, so that what is read twice is the same."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> float:
        return self.now / 1e9

    def put_in_place(self, patch: pytest.MonkeyPatch) -> None:
        """Measure by this clock."""
        for module in (awaited, generators, bindings, run, wrappers, _measure):
            patch.setattr(module, "clock", self)
        for names in (fast_path.NAMES, generators.NAMES):
            patch.setitem(names, "clock", self)
