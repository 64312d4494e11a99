"""What may stay in the store: bounds on age and size, but metrics for 49 hours at least."""

from __future__ import annotations

import time
from collections.abc import Callable

from clew.local.store import WritableStore

METRICS_KEPT = 49 * 3600
"""Seconds that metrics stay whatever the bounds, so that an hour can be compared with the same hour yesterday."""

SMALLEST = 1024 * 1024
"""The least ``--max-size`` in bytes."""

_BEGIN, _GOAL = 0.85, 0.75  # shares of the size where deleting begins and ends; between them room for a transaction
_PAGE = 4096  # bytes of a page of SQLite
_ROWS = 256  # deleted in one transaction
_AGE_EVERY = 30.0  # seconds between two looks at the age
_ENDED_BY = {"log_lines": "time", "spans": "end", "exemplars": "time"}  # in the order in which they go


class Retention:
    """Deletes what is too old or too much.

    Args:
        max_age: seconds, None for no bound.
        max_size: bytes of the file and its write-ahead log together.
        warn: called with one line when the bounds cannot be kept.
    """

    def __init__(self, max_age: float | None, max_size: int, warn: Callable[[str], None]) -> None:
        self.max_age = max_age
        self.max_size = max_size
        self._warn = warn
        self._next_age = 0.0
        self._warned = False

    def enforce(self, store: WritableStore) -> bool:
        """Delete what the bounds demand, and return whether whole series went; cheap when nothing is to be done."""
        if self.max_age is not None and time.monotonic() >= self._next_age:
            self._next_age = time.monotonic() + min(_AGE_EVERY, max(1.0, self.max_age / 10))
            self._enforce_age(store, time.time_ns() - int(self.max_age * 1e9))
        if store.size() <= self.max_size * _BEGIN:
            return False
        return self._enforce_size(store)

    def _enforce_age(self, store: WritableStore, before: int) -> None:
        deleted = 0
        for table, column in _ENDED_BY.items():
            while rows := _delete_oldest(store, table, column, before):
                deleted += rows
                _checkpoint(store)
        deleted += _delete_points(store, min(before, time.time_ns() - METRICS_KEPT * 10**9))
        if deleted:
            _shrink(store, self.max_size)

    def _enforce_size(self, store: WritableStore) -> bool:
        step = max(16, self.max_size // 32 // _PAGE)
        _shrink(store, self.max_size)
        for table, column in _ENDED_BY.items():
            while store.size() > self.max_size * _GOAL:
                while (rows := _delete_oldest(store, table, column, None)) and _free_pages(store) < step:
                    _checkpoint(store)
                _shrink(store, self.max_size)
                if not rows:
                    break
        times = 64
        while times and store.size() > self.max_size * _GOAL:
            _delete_points(store, time.time_ns() - times * METRICS_KEPT * 10**9)
            _shrink(store, self.max_size)
            times //= 2
        gone = False
        if store.size() > self.max_size * _GOAL:
            gone = _delete_ended_series(store, time.time_ns() - METRICS_KEPT * 10**9)
            _shrink(store, self.max_size)
        if store.size() > self.max_size and not self._warned:
            self._warned = True
            self._warn(
                f"{store.path} is larger than --max-size ({store.size()} bytes, {self.max_size} allowed): "
                "metrics of the last 49 hours are kept whatever their size"
            )
        return gone


def _delete_oldest(store: WritableStore, table: str, column: str, before: int | None) -> int:
    where = "" if before is None else f"WHERE {column} < {before:d}"
    return store.connection.execute(
        f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} {where} ORDER BY {column} LIMIT {_ROWS})"
    ).rowcount


def _delete_points(store: WritableStore, before: int) -> int:
    """Delete each series' points before a time, but for the last of them: what comes after is counted from it."""
    deleted = 0
    series = store.connection.execute("SELECT id FROM series WHERE first < ?", (before,)).fetchall()
    for (number,) in series:
        deleted += store.connection.execute(
            "DELETE FROM points WHERE series = ? AND time < "
            "(SELECT max(time) FROM points WHERE series = ? AND time < ?)",
            (number, number, before),
        ).rowcount
    return deleted


def _delete_ended_series(store: WritableStore, before: int) -> bool:
    """Delete every series that has had no point since; those are baselines of processes long gone."""
    ended = store.connection.execute(
        "SELECT id FROM series WHERE first < ? AND NOT EXISTS "
        "(SELECT 1 FROM points WHERE points.series = series.id AND time >= ?)",
        (before, before),
    ).fetchall()
    for (number,) in ended:
        store.connection.execute("BEGIN IMMEDIATE")
        store.connection.execute("DELETE FROM points WHERE series = ?", (number,))
        store.connection.execute("DELETE FROM exemplars WHERE series = ?", (number,))
        store.connection.execute("DELETE FROM series WHERE id = ?", (number,))
        store.connection.execute("COMMIT")
    return bool(ended)


def _free_pages(store: WritableStore) -> int:
    return int(store.connection.execute("PRAGMA freelist_count").fetchone()[0])


def _checkpoint(store: WritableStore) -> None:
    store.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _shrink(store: WritableStore, max_size: int) -> None:
    """Give all free pages back to the disk, some at a time, since moving pages makes the write-ahead log grow."""
    pages = max(64, max_size // 64 // _PAGE)
    while _free_pages(store):
        # It frees a page a row, so it is run to its end; its rows have no columns, which `fetchall` is not made for.
        store.connection.executescript(f"PRAGMA incremental_vacuum({pages})")
        _checkpoint(store)
    store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
