"""The shop of examples/ for its tests: as a database, and as running processes."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

EXAMPLES = str(Path(__file__).resolve().parents[2] / "examples")
if EXAMPLES not in sys.path:
    sys.path.insert(0, EXAMPLES)

from shop import database, payments, seed  # noqa: E402


@pytest.fixture
def shop_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shop's database on its first morning; the front uses it too."""
    file = tmp_path / "shop.sqlite"
    seed.seed(file)
    monkeypatch.setenv("SHOP_DATABASE", str(file))
    return file


@pytest.fixture
def shop(shop_file: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the shop's database."""
    with closing(database.connect(shop_file)) as connection:
        yield connection


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """A connection to the database of payments, which the payments service uses too."""
    file = tmp_path / "payments.sqlite"
    database.create(file, payments.SCHEMA)
    monkeypatch.setenv("SHOP_PAYMENTS_DATABASE", str(file))
    with closing(database.connect(file)) as connection:
        yield connection
