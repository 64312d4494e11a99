"""The shop's SQLite file: its tables, its connections and its transactions."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

SCHEMA = """
CREATE TABLE products (
    id          INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL,
    description TEXT    NOT NULL,
    price       INTEGER NOT NULL CHECK (price >= 0),
    grams       INTEGER NOT NULL CHECK (grams >= 0),
    stock       INTEGER NOT NULL CHECK (stock >= 0)
);
CREATE TABLE carts (
    id       TEXT PRIMARY KEY,
    customer TEXT NOT NULL
);
CREATE TABLE cart_lines (
    cart_id    TEXT    NOT NULL REFERENCES carts (id) ON DELETE CASCADE,
    product_id INTEGER NOT NULL REFERENCES products (id),
    quantity   INTEGER NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (cart_id, product_id)
) WITHOUT ROWID;
CREATE TABLE orders (
    id       TEXT    PRIMARY KEY,
    customer TEXT    NOT NULL,
    total    INTEGER NOT NULL CHECK (total >= 0),
    parcels  INTEGER NOT NULL CHECK (parcels >= 0),
    state    TEXT    NOT NULL CHECK (state IN ('unpaid', 'cancelled', 'paid', 'packed', 'shipped')),
    tracking TEXT
);
-- The primary key serves "what is in this order". Nothing serves "how often was this product sold": the search asks it.
CREATE TABLE order_lines (
    order_id   TEXT    NOT NULL REFERENCES orders (id),
    product_id INTEGER NOT NULL REFERENCES products (id),
    quantity   INTEGER NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (order_id, product_id)
) WITHOUT ROWID;
CREATE TABLE jobs (
    id         INTEGER PRIMARY KEY,
    order_id   TEXT NOT NULL REFERENCES orders (id),
    request_id TEXT,
    state      TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'taken', 'done', 'failed')),
    created    REAL NOT NULL
);
CREATE INDEX jobs_waiting ON jobs (id) WHERE state = 'waiting';
"""
"""Prices and totals are in euro cents, times in seconds since 1970."""


def database_file() -> Path:
    """The file that the variable ``SHOP_DATABASE`` names."""
    return Path(os.environ.get("SHOP_DATABASE", "shop.sqlite"))


def create(file: Path, schema: str) -> None:
    """Make a new database with these tables, in WAL mode: readers and the one writer do not wait for each other.

    Raises:
        sqlite3.OperationalError: The file has these tables already.
    """
    with closing(connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(schema)


def connect(file: Path) -> sqlite3.Connection:
    """Open the database; every statement outside `transaction` is one of its own.

    A request is served by any free thread, one after the other: hence `check_same_thread`.
    """
    connection = sqlite3.connect(file, timeout=60, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """Write all of the block or, when an exception leaves it, nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
