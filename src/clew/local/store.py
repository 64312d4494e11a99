"""The SQLite file: its schema, how it is recognised, opened for reading, and locked for its one writer."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import struct
import sys
from collections.abc import Generator
from pathlib import Path
from typing import IO

from clew.answers.source import SourceError

if sys.platform == "linux":
    import fcntl

APPLICATION_ID = 0x636C6577
"""What SQLite's header says of a store of ours: "clew" in ASCII."""

SCHEMA_VERSION = 1

_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE refusals (signal TEXT, reason TEXT, count INTEGER, PRIMARY KEY (signal, reason)) WITHOUT ROWID;
CREATE TABLE resources (id INTEGER PRIMARY KEY, attributes TEXT UNIQUE, service TEXT, instance TEXT);
CREATE TABLE scopes (id INTEGER PRIMARY KEY, description TEXT UNIQUE);
CREATE TABLE series (
    id INTEGER PRIMARY KEY, identity BLOB UNIQUE, resource INTEGER, scope INTEGER, name TEXT, unit TEXT, kind TEXT,
    temporality TEXT, monotonic INTEGER, attributes TEXT, bounds TEXT, start INTEGER, first INTEGER);
CREATE INDEX series_name ON series (name);
CREATE INDEX series_resource ON series (resource, start, first);
CREATE TABLE points (
    series INTEGER, time INTEGER, start INTEGER, value, count INTEGER, sum REAL, min REAL, max REAL, buckets TEXT,
    PRIMARY KEY (series, time, start)) WITHOUT ROWID;
CREATE TABLE exemplars (
    id INTEGER PRIMARY KEY, series INTEGER, time INTEGER, value REAL, trace_id TEXT, span_id TEXT, request_id TEXT,
    attributes TEXT, UNIQUE (series, time, value, trace_id, span_id, request_id));
CREATE INDEX exemplars_time ON exemplars (time);
CREATE INDEX exemplars_request ON exemplars (request_id) WHERE request_id != '';
CREATE TABLE spans (
    id INTEGER PRIMARY KEY, resource INTEGER, scope INTEGER, trace_id TEXT, span_id TEXT, parent_id TEXT, name TEXT,
    kind INTEGER, start INTEGER, end INTEGER, status INTEGER, message TEXT, request_id TEXT, attributes TEXT,
    events TEXT, links TEXT, UNIQUE (trace_id, span_id));
CREATE INDEX spans_end ON spans (end);
CREATE INDEX spans_request ON spans (request_id) WHERE request_id != '';
CREATE TABLE log_lines (
    id INTEGER PRIMARY KEY, digest BLOB UNIQUE, resource INTEGER, scope INTEGER, time INTEGER, severity INTEGER,
    severity_text TEXT, body TEXT, event TEXT, trace_id TEXT, span_id TEXT, request_id TEXT, attributes TEXT);
CREATE INDEX log_lines_time ON log_lines (time);
CREATE INDEX log_lines_request ON log_lines (request_id) WHERE request_id != '';
CREATE INDEX log_lines_trace ON log_lines (trace_id) WHERE trace_id != '';
"""

_HEADER = 100  # bytes of a SQLite file that say what it is


class StoreError(SourceError):
    """The store cannot be used; the message says which file, and why."""


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a store read-only, beside its writer.

    Each SELECT is its own short transaction, so that a reader never holds up the writer's checkpoints.

    Raises:
        StoreError: there is no such file, it is not a store of ours, or it cannot be read.
    """
    if not _is_store(path):
        raise StoreError(f"there is no store at {path}; start `clew local --store {path}` and send something to it")
    address = f"{path.resolve().as_uri()}?mode=ro"
    with reading(path):
        try:
            return _opened(address)
        except sqlite3.OperationalError as error:
            if "unable to open" not in str(error) and "readonly" not in str(error):
                raise
    # Beside a file that is written, readers need one of their own (-shm). Where none can be made there is no writer.
    if _file_size(Path(f"{path.resolve()}-wal")):
        raise StoreError(
            f"{path} cannot be read here: its folder is read-only, and the last of what was written is still in "
            f"{path.name}-wal. Copy both to a folder that can be written"
        )
    with reading(path):
        return _opened(f"{address}&immutable=1")


def _opened(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(address, uri=True, timeout=5, isolation_level=None)
    try:
        connection.execute("SELECT name FROM settings").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def reading(path: Path) -> Generator[None]:
    """Turn errors of reading inside the block into a `StoreError` that names the file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "decode" not in str(error) and "no such" not in str(error):
            raise StoreError(f"{path} cannot be read: {error}") from error
        raise StoreError(f"{path} cannot be read, it is damaged: {error}") from error
    except (sqlite3.Error, ValueError, TypeError, KeyError, IndexError) as error:  # the latter of a row's own content
        raise StoreError(f"{path} cannot be read, it is damaged: {error}") from error


class WritableStore:
    """A store opened for its one writer; the file is made if it is not there.

    Beside the file lies an empty one with ``-lock`` at its end. SQLite's own lock on that one says that the store has a
    writer; the operating system releases it when the process ends, however it ends.

    Raises:
        StoreError: the file is foreign or damaged (and is left as it is), or another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        there = _is_store(path)
        target = path.resolve()
        self._lock = _take_lock(target)
        try:
            if there:
                _check_pages(target)
            else:
                _create(target)
            self._file = _claim(target)
            self.connection = sqlite3.connect(target, timeout=5, isolation_level=None, check_same_thread=False)
            self.connection.execute("PRAGMA synchronous=NORMAL")
            self.connection.execute("PRAGMA journal_size_limit=0")
            self.connection.execute("INSERT OR REPLACE INTO settings VALUES ('writer', ?)", (os.getpid(),))
        except (sqlite3.Error, OSError) as error:
            self._lock.close()
            raise StoreError(f"{path} cannot be opened as a store: {error}") from error
        except BaseException:
            self._lock.close()
            raise

    def size(self) -> int:
        """Return the bytes on disk: the file and its write-ahead log."""
        return sum(_file_size(Path(f"{self.path.resolve()}{suffix}")) for suffix in ("", "-wal"))

    def close(self) -> None:
        """Close the file and release the lock; may be called again."""
        self.connection.close()
        self._file.close()
        self._lock.close()


def _is_store(path: Path) -> bool:
    """Return whether the file is there, reading its header only; a foreign file is a StoreError and is not touched."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{path} cannot be a store: it is not a regular file")
        with path.open("rb") as file:
            header = file.read(_HEADER)
    except FileNotFoundError:
        if not path.absolute().parent.is_dir():
            raise StoreError(f"{path} cannot be a store: there is no folder {path.absolute().parent}") from None
        return False
    except OSError as error:
        raise StoreError(f"{path} cannot be a store: {error.strerror or error}") from error
    if not header:
        return False
    if len(header) < _HEADER or not header.startswith(b"SQLite format 3\0"):
        raise StoreError(f"{path} is not a store of clew: it is not a SQLite file. It was left as it is; name another")
    version, application = struct.unpack_from(">I4xI", header, 60)
    if application != APPLICATION_ID:
        raise StoreError(
            f"{path} is not a store of clew: it is another program's SQLite file. It was left as it is; name another"
        )
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} is a store of another version of clew (schema {version}, this one reads {SCHEMA_VERSION}); "
            "it was left as it is"
        )
    if found.st_nlink > 1:
        raise StoreError(
            f"{path} has {found.st_nlink} names (hard links), and a store may have one: SQLite's log and its locks "
            "go by the name, so that two would damage it. Remove the others, or copy the file"
        )
    return True


def _take_lock(target: Path) -> sqlite3.Connection:
    lock: sqlite3.Connection | None = None
    try:
        lock = sqlite3.connect(f"{target}-lock", timeout=0, isolation_level=None, check_same_thread=False)
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        if lock is not None:
            lock.close()
        if "locked" in str(error):
            raise StoreError(
                f"{target} already has a writer{_writer_of(target)}: one `clew local` a store. "
                "Stop that one, or name another file with --store"
            ) from None
        raise StoreError(f"{target} cannot be locked for writing ({target.name}-lock beside it): {error}") from error
    return lock


def _claim(target: Path) -> IO[bytes]:
    """Lock the file itself too, whatever its name: it may have been moved since its writer began.

    Only on Linux, where such a lock and those of SQLite do not see each other. It is to be closed after SQLite's
    connection, whose locks are lost when the file is closed anywhere.
    """
    file = target.open("rb")
    if sys.platform == "linux":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise StoreError(
                f"{target} already has a writer, under another name: one `clew local` a store. Stop that one"
            ) from None
        except OSError:
            pass  # a file system without such locks
    return file


def _writer_of(target: Path) -> str:
    try:
        with contextlib.closing(open_for_reading(target)) as connection:
            (process,) = connection.execute("SELECT value FROM settings WHERE name = 'writer'").fetchone()
    except (StoreError, sqlite3.Error, TypeError):
        return ""
    return f" (process {process})"


def _check_pages(target: Path) -> None:
    """Read the whole file once, without writing, and raise StoreError if it is damaged."""
    try:
        with contextlib.closing(sqlite3.connect(f"{target.as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        found, tables = str(error), set[str]()
    missing = {"settings", "refusals", "resources", "scopes", "series", "points", "exemplars", "spans", "log_lines"}
    missing -= tables
    if found == "ok" and missing:
        found = f"no table {min(missing)}"
    if found != "ok":
        raise StoreError(
            f"{target} is damaged ({' '.join(found.split())}). It was left as it is; move it away or name another file"
        )


def _create(target: Path) -> None:
    """Make an empty store beside its place and move it there, so that a half-made one is never seen."""
    draft = target.with_name(f"{target.name}-draft")
    draft.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # has to come before the first table and before WAL
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.executescript(f"BEGIN; {_TABLES} COMMIT;")
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
    draft.replace(target)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
