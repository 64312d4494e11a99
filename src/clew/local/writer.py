"""The one thread that writes: takes exports from a queue, commits many at once, and only then answers them."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

from clew.local import rows
from clew.local.retention import Retention
from clew.local.rows import Batch
from clew.local.store import WritableStore

_TRANSACTION = 4 * 1024 * 1024  # bytes of rows in one transaction: what the write-ahead log grows by
_REMEMBERED = 50_000  # row numbers of resources, scopes and series that are kept in memory
_IDLE = 1.0  # seconds between two looks at age and size when nothing arrives

_Row = rows.Point | rows.Exemplar | rows.Span | rows.LogLine


class _Export(NamedTuple):
    batch: Batch
    answer: Future[Batch]


class Writer:
    """Writes exports into a store, in the order they come, and keeps it within its bounds.

    Args:
        store: opened for writing; the writer does not close it.
        retention: what may stay.
        warn: called with one line when the store cannot be kept within its bounds.
    """

    def __init__(self, store: WritableStore, retention: Retention, warn: Callable[[str], None]) -> None:
        self._store = store
        self._connection = store.connection
        self._retention = retention
        self._warn = warn
        self._known: dict[rows.Resource | rows.Series | str, int] = {}  # a text is a scope
        self._firsts: dict[int, int] = {}
        self._exports: queue.SimpleQueue[_Export | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._transaction = min(_TRANSACTION, retention.max_size // 32)
        self._largest = retention.max_size // 8
        # While the log is copied into the file, both count: so it is copied often where little room is allowed.
        pages = min(max(retention.max_size // 32 // 4096, 16), 1000)
        self._connection.execute(f"PRAGMA wal_autocheckpoint={pages}").fetchall()
        self._thread = threading.Thread(target=self._run, name="clew store writer")
        self._thread.start()

    def write(self, batch: Batch) -> Future[Batch]:
        """Queue an export. The future is done once it is committed, and holds the batch with what was rejected.

        It fails with `sqlite3.Error` if the store cannot take it now (a full disk); then it may be sent again.
        """
        answer: Future[Batch] = Future()
        with self._closing:
            if self._closed:
                answer.set_exception(sqlite3.OperationalError("the collector is ending"))
            else:
                self._exports.put(_Export(batch, answer))
        return answer

    def close(self) -> None:
        """Commit what is queued and end the thread."""
        with self._closing:
            self._closed = True
            self._exports.put(None)
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            exports: list[_Export] = []
            with contextlib.suppress(queue.Empty):
                export = self._exports.get(timeout=_IDLE)
                while export is not None:
                    exports.append(export)
                    export = self._exports.get_nowait()
                going = False
            self._write_together(exports)
            self._enforce()

    def _write_together(self, exports: list[_Export]) -> None:
        """Write in as few transactions as the bound allows; where that fails, each alone: one may not fail others."""
        if not exports:
            return
        before = [(export.batch.rejected, export.batch.reasons.copy()) for export in exports]
        try:
            self._insert([export.batch for export in exports])
        except Exception as error:
            self._roll_back()
            for export, (rejected, reasons) in zip(exports, before, strict=True):
                export.batch.rejected, export.batch.reasons = rejected, reasons
            if len(exports) == 1:
                exports[0].answer.set_exception(error)
                return
            for export in exports:
                self._write_together([export])
            return
        for export in exports:
            export.answer.set_result(export.batch)

    def _insert(self, batches: list[Batch]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        written = 0
        for batch in batches:
            for row in _rows_of(batch):
                size = _size_of(row)
                if size > self._largest:
                    batch.reject(f"larger than an eighth of --max-size ({self._largest} bytes)")
                    continue
                written += size
                if written > self._transaction:
                    self._connection.execute("COMMIT")
                    self._enforce()
                    self._connection.execute("BEGIN IMMEDIATE")
                    written = size
                self._insert_row(batch, row)
            for reason, count in batch.reasons.items():
                self._connection.execute(
                    "INSERT INTO refusals VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                    (batch.signal, reason, count),
                )
        self._connection.execute("COMMIT")

    def _insert_row(self, batch: Batch, row: _Row) -> None:
        if isinstance(row, rows.Point):
            key = (self._series(row), row.time, row.start)
            values = row[3:]
            if self._execute("INSERT INTO points VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING", (*key, *values)):
                return
            stored = self._connection.execute(
                "SELECT value, count, sum, min, max, buckets FROM points WHERE series = ? AND time = ? AND start = ?",
                key,
            ).fetchone()
            if stored != values:
                batch.reject("a data point that contradicts the one stored for its series and time")
        elif isinstance(row, rows.Exemplar):
            self._execute(
                "INSERT INTO exemplars VALUES (NULL,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                (self._series(row), *row[1:]),
            )
        elif isinstance(row, rows.Span):
            self._execute(
                "INSERT INTO spans VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                (self._resource(row.resource), self._scope(row.scope), *row[2:]),
            )
        else:
            self._execute(
                "INSERT INTO log_lines VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                (row.digest, self._resource(row.resource), self._scope(row.scope), *row[3:]),
            )

    def _series(self, row: rows.Point | rows.Exemplar) -> int:
        series = row.series
        found = self._known.get(series)
        first = row.time if isinstance(row, rows.Point) else None
        if found is None:
            # Stores keep this digest: renaming the row's classes or fields makes other series of those that are there.
            digest = hashlib.blake2b(repr(series).encode(), digest_size=16).digest()
            found = self._row_number(
                "series",
                "identity",
                digest,
                "INSERT INTO series VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?)",
                (digest, self._resource(series.resource), self._scope(series.scope), *series[2:], first),
            )
            self._remember(series, found)
        if first is not None:
            self._first(found, first)
        return found

    def _first(self, series: int, time: int) -> None:
        """Keep the time of a series' first point, which outlives the point itself."""
        known = self._firsts.get(series)
        if known is None or time < known:
            self._execute(
                "UPDATE series SET first = ? WHERE id = ? AND ifnull(first, ?) >= ?", (time, series, time, time)
            )
            (self._firsts[series],) = self._connection.execute(
                "SELECT first FROM series WHERE id = ?", (series,)
            ).fetchone()

    def _resource(self, resource: rows.Resource) -> int:
        found = self._known.get(resource)
        if found is None:
            found = self._row_number(
                "resources", "attributes", resource.attributes, "INSERT INTO resources VALUES (NULL,?,?,?)", resource
            )
            self._remember(resource, found)
        return found

    def _scope(self, scope: str) -> int:
        found = self._known.get(scope)
        if found is None:
            found = self._row_number("scopes", "description", scope, "INSERT INTO scopes VALUES (NULL,?)", (scope,))
            self._remember(scope, found)
        return found

    def _row_number(self, table: str, column: str, key: Any, insert: str, values: tuple[Any, ...]) -> int:
        known = self._connection.execute(f"SELECT id FROM {table} WHERE {column} = ?", (key,)).fetchone()
        number: int | None = known[0] if known else self._connection.execute(insert, values).lastrowid
        assert number is not None
        return number

    def _remember(self, key: rows.Resource | rows.Series | str, number: int) -> None:
        if len(self._known) >= _REMEMBERED:
            self._forget()
        self._known[key] = number

    def _forget(self) -> None:
        self._known.clear()
        self._firsts.clear()

    def _execute(self, statement: str, values: tuple[Any, ...]) -> bool:
        return self._connection.execute(statement, values).rowcount > 0

    def _roll_back(self) -> None:
        self._forget()
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _enforce(self) -> None:
        try:
            if self._retention.enforce(self._store):
                self._forget()
        except sqlite3.Error as error:
            self._roll_back()
            self._warn(f"{self._store.path} could not be kept within its bounds: {error}")


def _rows_of(batch: Batch) -> Iterator[_Row]:
    yield from batch.points
    yield from batch.exemplars
    yield from batch.spans
    yield from batch.log_lines


def _size_of(row: _Row) -> int:
    """Estimate a row's bytes in the file: its texts, and roughly its numbers and indices."""
    return 200 + sum(len(value) for value in row if isinstance(value, (str, bytes)))
