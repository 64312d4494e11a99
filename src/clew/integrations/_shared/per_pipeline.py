"""Instruments of an integration, made anew for each pipeline that measurements go to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from clew.metrics import reentry
from clew.operations import pipeline
from clew.operations.pipeline import Pipeline

T = TypeVar("T")


class PerPipeline(Generic[T]):
    """What `make` makes of the current pipeline, once for each of them."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[Pipeline], T]) -> None:
        self._make = make
        self._made: tuple[Pipeline, T] | None = None

    def get(self) -> tuple[Pipeline, T] | None:
        """Return the current pipeline and what was made of it, or None where nothing is recorded."""
        current = pipeline.current
        if current is None:
            return None
        made = self._made
        if made is None or made[0] is not current:
            if reentry.is_inside():
                return None
            self._made = made = (current, self._make(current))  # two threads at a time make the same
        return made
