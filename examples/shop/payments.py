"""The payments service: asks the provider, keeps the books. Start it with ``python -m shop payments --port 8001``.

``SHOP_PAYMENTS_DATABASE`` names its SQLite file, which all instances share; with ``SHOP_PROVIDER_SICK=true`` this
instance's provider is sick from the start, and ``PUT /provider`` makes it so, or well again, at any time.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field

import clew
import clew.integrations.fastapi
from shop.database import connect, transaction
from shop.provider import Provider, ProviderUnavailable

SCHEMA = """
CREATE TABLE payments (
    order_id TEXT    PRIMARY KEY,
    amount   INTEGER NOT NULL CHECK (amount >= 0)
);
"""

log = logging.getLogger(__name__)

taken = clew.counter("shop.payments.amount", unit="EUR", description="Money that was taken.")


class Payment(BaseModel):
    """A request for `amount` euro cents."""

    order_id: str
    card: str
    amount: Annotated[int, Field(ge=0)]


class ProviderState(BaseModel):
    """How the provider of this instance is doing."""

    sick: bool


def database_file() -> Path:
    """The file that the variable ``SHOP_PAYMENTS_DATABASE`` names."""
    return Path(os.environ.get("SHOP_PAYMENTS_DATABASE", "payments.sqlite"))


def books() -> Iterator[sqlite3.Connection]:
    """A connection for one request."""
    with closing(connect(database_file())) as connection:
        yield connection


Books = Annotated[sqlite3.Connection, Depends(books)]

app = FastAPI(title="shop payments", openapi_url=None)
clew.integrations.fastapi.instrument(app)
provider = Provider(sick=os.environ.get("SHOP_PROVIDER_SICK", "").lower() == "true")


@app.post("/payments", status_code=201)
def pay(books: Books, payment: Payment) -> dict[str, str]:
    """Take the money: 201, or 402 where the card is declined, or 503 where the provider is unavailable."""
    try:
        accepted = take(books, payment)
    except ProviderUnavailable:
        log.exception("order %s could not be charged", payment.order_id)
        raise HTTPException(503, "the provider is away") from None
    if not accepted:
        log.warning("card of order %s is declined", payment.order_id)
        raise HTTPException(402, "declined")
    return {"order_id": payment.order_id}


@app.put("/provider", status_code=204)
def set_provider(state: ProviderState) -> None:
    """The switch of the example's sick hour."""
    provider.sick = state.sick
    log.info("the provider is %s", "sick" if state.sick else "well")


@clew.measure("take payment", failed=lambda accepted: None if accepted else "declined")
def take(books: sqlite3.Connection, payment: Payment) -> bool:
    """Charge an order once, however often it is asked for; False where the card is declined.

    Raises:
        ProviderUnavailable: The provider gave up.
    """
    if books.execute("SELECT 1 FROM payments WHERE order_id = ?", (payment.order_id,)).fetchone():
        return True
    with clew.measure("ask provider"):
        accepted = provider.charge(payment.order_id, payment.card, payment.amount)
    if accepted:
        with transaction(books):
            books.execute("INSERT INTO payments VALUES (?, ?)", (payment.order_id, payment.amount))
        taken.add(payment.amount / 100)
    return accepted
