"""The queue between the front and the worker: a table, so that the transaction that pays an order writes its job."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

import clew


@dataclass(frozen=True)
class Job:
    """An order to be sent. `request_id` is that of the request that paid it, `waited` is in seconds."""

    id: int
    order_id: str
    request_id: str | None
    waited: float


def add(connection: sqlite3.Connection, order_id: str) -> None:
    """Put an order into the queue, as part of the caller's transaction; the current request ID goes with it."""
    connection.execute(
        "INSERT INTO jobs (order_id, request_id, created) VALUES (?, ?, ?)", (order_id, clew.request_id(), time.time())
    )


def take(connection: sqlite3.Connection) -> Job | None:
    """Take the oldest waiting job, for this worker alone; None where nothing waits."""
    row = connection.execute(
        """
        UPDATE jobs SET state = 'taken'
        WHERE id = (SELECT min(id) FROM jobs WHERE state = 'waiting')
        RETURNING id, order_id, request_id, created
        """
    ).fetchone()
    if row is None:
        return None
    return Job(row["id"], row["order_id"], row["request_id"], max(time.time() - row["created"], 0.0))


def finish(connection: sqlite3.Connection, job: Job, *, succeeded: bool) -> None:
    """Write down how a job ended."""
    connection.execute("UPDATE jobs SET state = ? WHERE id = ?", ("done" if succeeded else "failed", job.id))


def unfinished(connection: sqlite3.Connection) -> int:
    """How many jobs wait or are being worked on."""
    row = connection.execute("SELECT count(*) FROM jobs WHERE state IN ('waiting', 'taken')").fetchone()
    return int(row[0])
