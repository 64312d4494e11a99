"""The canonical log line: one record a request that says what it was, how long it took, how it ended, what was in it.

It is a record of `logging` at INFO, of the logger ``clew.canonical``, and goes wherever such records go.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clew.diagnostics import count, warn_once
from clew.logs.records import OWN_FIELDS, filtered
from clew.policy import policy

if TYPE_CHECKING:
    from clew.attributes import Value

LOGGER = "clew.canonical"

MOST_OPERATIONS = 50
"""How many operations one line has by name; the runs of further ones are added up under `FURTHER`."""

MOST_VALUES = 50
"""How many values, set or noted, one line has."""

LONGEST_TEXT = 1_000
"""How many characters a value has at most."""

FURTHER = "(further operations)"


class _Runs:
    """The runs of one operation inside a request."""

    __slots__ = ("count", "failed", "seconds")

    def __init__(self) -> None:
        self.count = self.failed = 0
        self.seconds = 0.0


class Line:
    """What is gathered for the line of one request."""

    __slots__ = ("_lock", "_outermost", "_runs", "_values")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # what is collected in the middle of it, or a signal, may run an operation too
        self._outermost: str | None = None
        self._runs: dict[str, _Runs] = {}
        self._values: dict[str, Value] = {}

    def name_after(self, name: str) -> None:
        """Name the line after an operation that is inside no other, unless it has a name already."""
        if self._outermost is None:
            self._outermost = name

    def add_run(self, name: str, seconds: float, *, is_failure: bool) -> None:
        """Add a run of an operation that has ended."""
        self._add(name, 1, int(is_failure), seconds)

    def _add(self, name: str, runs: int, failed: int, seconds: float) -> None:
        with self._lock:
            found = self._runs.get(name)
            is_further = found is None and len(self._runs) >= MOST_OPERATIONS
            if found is None:
                found = self._runs.setdefault(FURTHER if is_further else name, _Runs())
            found.count += runs
            found.failed += failed
            found.seconds += seconds
        if is_further and name != FURTHER:
            _warn_of_cut(runs)

    def add_values(self, values: Mapping[str, Value]) -> None:
        """Add values that an operation has set or noted; of several of one name the last one counts."""
        cut = 0
        with self._lock:
            for name, value in values.items():
                if name not in self._values and len(self._values) >= MOST_VALUES:
                    cut += 1
                    continue
                if isinstance(value, str) and len(value) > LONGEST_TEXT:
                    cut += 1
                    value = value[:LONGEST_TEXT]
                self._values[name] = value
        if cut:
            _warn_of_cut(cut)

    def merge(self, line: Line) -> None:
        """Add all that another line has gathered."""
        if line._outermost is not None:
            self.name_after(line._outermost)
        with line._lock:  # work that outlives its request may go on
            found = [(name, runs.count, runs.failed, runs.seconds) for name, runs in line._runs.items()]
            values = dict(line._values)
        for runs in found:
            self._add(*runs)
        self.add_values(values)

    def write(
        self, request_id: str, seconds: float, failure: str | None, name: str | None, attributes: Mapping[str, Any]
    ) -> None:
        """Write the line."""
        logger = logging.getLogger(LOGGER)
        if not logger.isEnabledFor(logging.INFO) and not _is_disabled_by_accident(logger):
            return
        what = name or self._outermost or "request"
        outcome = "succeeded" if failure is None else f"failed ({failure})"
        record = logger.makeRecord(LOGGER, logging.INFO, "", 0, "%s %s in %.6f s", (what, outcome, seconds), None)
        with self._lock:
            values = dict(self._values)
            operations = {
                key: {"count": runs.count, "duration": runs.seconds, "failed": runs.failed}
                for key, runs in self._runs.items()
            }
        fields: dict[str, Any] = {
            **attributes,
            "request.name": what,
            "request.duration": seconds,
            "request.outcome": "success" if failure is None else "failure",
            policy.attribute: request_id,
        }
        if failure is not None:
            fields["error.type"] = failure
        if operations:
            fields["request.operations"] = operations
        for key, value in values.items():  # one that has the name of a field gets something in front
            fields[f"value.{key}" if key in fields or key in OWN_FIELDS else key] = value
        vars(record).update(fields)
        passed = filtered(logger, record)
        if passed is not None:
            logger.callHandlers(passed)


def _is_disabled_by_accident(logger: logging.Logger) -> bool:
    """Tell whether only `dictConfig` has switched it off, which does so by default with all that it does not name."""
    is_let_through = logging.root.manager.disable < logging.INFO and logger.getEffectiveLevel() <= logging.INFO
    return logger.disabled and is_let_through


def _warn_of_cut(number: int) -> None:
    count("canonical.cut", number)
    warn_once(
        "canonical.cut",
        "A canonical log line was cut: it has at most %d operations and %d values of %d characters (logged once; each "
        "one is counted)",
        MOST_OPERATIONS,
        MOST_VALUES,
        LONGEST_TEXT,
    )


# the level

_is_level_ours = False


def set_level() -> None:
    """Set the level of the logger to INFO where the application has set none."""
    global _is_level_ours
    logger = logging.getLogger(LOGGER)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
        _is_level_ours = True


def reset_level() -> None:
    """Undo what `set_level` has done."""
    global _is_level_ours
    logger = logging.getLogger(LOGGER)
    if _is_level_ours and logger.level == logging.INFO:
        logger.setLevel(logging.NOTSET)
    _is_level_ours = False
