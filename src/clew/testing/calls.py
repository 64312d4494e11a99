"""The calls of operations that a test has seen end, one by one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.trace import get_current_span

from clew.attributes import Value
from clew.metrics.recorder import OperationRecorder, PortableRecorder
from clew.propagation.cell import request_id_in
from clew.testing.tables import Counted, Listed, Number, attributes_text, rows, seconds_text
from clew.testing.watch import RequestWatch

_OWN = ("operation.name", "error.type")


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        operation: Its name.
        attributes: The user's attributes, those that were set inside included.
        error_type: The ``error.type`` of a failed call, else None.
        duration: In seconds.
        ended: When it ended, in nanoseconds since the epoch.
        request_id: The ID of the request that it was made in, or None.
        trace_id, span_id: Of the span that was current when it ended, or None.
    """

    operation: str
    attributes: Mapping[str, Value]
    error_type: str | None
    duration: float
    ended: int
    request_id: str | None
    trace_id: int | None
    span_id: int | None


class Calls:
    """Some of the calls that a test has seen, in the order that they ended in."""

    def __init__(self, of: str, calls: Sequence[Call], others: Mapping[str, int]) -> None:
        self._of = of
        self._calls = list(calls)
        self._others = dict(others)

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def __getitem__(self, index: int) -> Call:
        return self._calls[index]

    def __repr__(self) -> str:
        return f"<{self._summary()}>"

    @property
    def count(self) -> int:
        """How many there are, failed ones included."""
        return Number(len(self._calls), self)

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return Number(sum(call.error_type is not None for call in self._calls), self)

    @property
    def errors(self) -> dict[str, int]:
        """How many failed, by ``error.type``."""
        return Counted(Counter(call.error_type for call in self._calls if call.error_type is not None), self)

    @property
    def durations(self) -> list[float]:
        """How long each took, in seconds."""
        return Listed((call.duration for call in self._calls), self)

    @property
    def attributes(self) -> list[dict[str, Value]]:
        """The attributes of each."""
        return Listed((dict(call.attributes) for call in self._calls), self)

    @property
    def request_ids(self) -> list[str | None]:
        """The request ID of each; None for one outside any request."""
        return Listed((call.request_id for call in self._calls), self)

    def table(self) -> list[str]:
        """Return the calls as the lines of a table."""
        if not self._calls:
            return [self._summary()]
        return rows(
            ("operation", "attributes", "error", "duration", "request"),
            [
                (
                    call.operation,
                    attributes_text(call.attributes),
                    call.error_type or "-",
                    seconds_text(call.duration),
                    call.request_id or "-",
                )
                for call in self._calls
            ],
        )

    def _summary(self) -> str:
        if self._calls:
            failed = f", {self.failed} failed" if self.failed else ""
            return f"{len(self._calls)} calls of {self._of}{failed}"
        others = ", ".join(f"{name} ({number})" for name, number in self._others.items())
        return f"no calls of {self._of}; measured were: {others or 'none at all'}"


class CapturingRecorder(PortableRecorder):
    """Records as the portable recorder does, and hands every call to a test too."""

    def __init__(self, provider: Any, keep: Callable[[Call], object], watch: RequestWatch) -> None:
        super().__init__(provider, self._ended)
        self._keep = keep
        self._watch = watch
        self.operations: set[str] = set()
        """The names of all operations that have begun, those included whose calls are not the test's."""

    def operation(self, attributes: Mapping[str, Value]) -> OperationRecorder:
        """Return the recorder of one operation."""
        self.operations.add(str(attributes.get("operation.name", "")))
        return super().operation(attributes)

    def _ended(self, attributes: Mapping[str, Value], seconds: float, context: Context | None) -> None:
        context = get_current() if context is None else context
        if not self._watch.includes(context):
            return
        span = get_current_span(context).get_span_context()
        error_type = attributes.get("error.type")
        self._keep(
            Call(
                operation=str(attributes.get("operation.name", "")),
                attributes={name: value for name, value in attributes.items() if name not in _OWN},
                error_type=None if error_type is None else str(error_type),
                duration=seconds,
                ended=time.time_ns(),
                request_id=request_id_in(context),
                trace_id=span.trace_id if span.is_valid else None,
                span_id=span.span_id if span.is_valid else None,
            )
        )
