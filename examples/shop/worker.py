"""The worker: packs what was paid and hands it to a carrier. Start it with ``python -m shop worker``.

``SHOP_DATABASE`` names the SQLite file in which the front leaves its jobs. It ends after the job at hand when asked to.
"""

from __future__ import annotations

import logging
import signal
import sqlite3
import threading
from contextlib import closing
from types import FrameType

import clew
from shop import jobs
from shop.database import connect, database_file, transaction
from shop.jobs import Job

IDLE = 0.05
"""In seconds: how long to wait before looking again when there was nothing to do."""

log = logging.getLogger(__name__)

waited = clew.histogram("shop.jobs.waited", unit="s", description="How long jobs waited for the worker.")


def work(connection: sqlite3.Connection, job: Job) -> None:
    """Do one job, inside the request that asked for it."""
    with clew.request(job.request_id):
        waited.record(job.waited)
        try:
            send(connection, job)
        except Exception:
            log.exception("order %s could not be sent", job.order_id)
            jobs.finish(connection, job, succeeded=False)
        else:
            jobs.finish(connection, job, succeeded=True)


@clew.measure("send order")
def send(connection: sqlite3.Connection, job: Job) -> None:
    """Pack an order and hand its parcels to a carrier."""
    parcels = pack(connection, job.order_id)
    with clew.measure("hand over") as handing_over:
        carrier = "bicycle" if parcels <= 2 else "lorry"
        tracking = f"{carrier}-{job.id:06}"
        handing_over.set("shop.carrier", carrier)
        handing_over.note("shop.tracking", tracking)
        with transaction(connection):
            connection.execute(
                "UPDATE orders SET state = 'shipped', tracking = ? WHERE id = ?", (tracking, job.order_id)
            )
    log.info("order %s is on its way in %d parcels: %s", job.order_id, parcels, tracking)


@clew.measure("pack order")
def pack(connection: sqlite3.Connection, order_id: str) -> int:
    """Pack an order and return how many parcels it takes."""
    with transaction(connection):
        connection.execute("UPDATE orders SET state = 'packed' WHERE id = ?", (order_id,))
        row = connection.execute("SELECT parcels FROM orders WHERE id = ?", (order_id,)).fetchone()
    return int(row["parcels"])


def main() -> None:
    """Do jobs until asked to stop."""
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with closing(connect(database_file())) as connection:
        log.info("the worker is ready")
        while not stop.is_set():
            job = jobs.take(connection)
            if job is None:
                stop.wait(IDLE)
            else:
                work(connection, job)
    log.info("the worker ends")
