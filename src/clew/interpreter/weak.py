"""A collection of objects that others keep alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class WeakCollection(Generic[T]):
    """Objects for as long as others keep them alive, in no order and compared by `==`.

    Unlike with a `weakref.WeakSet`, other threads, finalizers and the handlers of signals may add to it while it is
    iterated over, which goes over what was there at the beginning. Each change is one step of the interpreter.
    """

    __slots__ = ("_references",)

    def __init__(self) -> None:
        self._references: set[weakref.ref[T]] = set()

    def add(self, one: T) -> None:
        """Add an object; again is fine."""
        self._references.add(weakref.ref(one, self._references.discard))

    def discard(self, one: T) -> None:
        """Take an object out, if it is there."""
        self._references.discard(weakref.ref(one))

    def clear(self) -> None:
        """Take all out."""
        self._references.clear()

    def __contains__(self, one: object) -> bool:
        return weakref.ref(one) in self._references

    def __iter__(self) -> Iterator[T]:
        for reference in self._references.copy():
            one = reference()
            if one is not None:
                yield one

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None
