"""The front of the shop: catalogue, carts, checkout, orders. Start it with ``python -m shop front --port 8000``.

``SHOP_DATABASE`` names the SQLite file, ``SHOP_PAYMENTS`` the addresses of the payments service, separated by spaces.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import clew.integrations.fastapi
from shop import carts, catalogue, checkout
from shop.carts import Cart, NoSuchCart
from shop.catalogue import NoSuchProduct, Product
from shop.checkout import EmptyCart, NoSuchOrder, Order, OutOfStock
from shop.database import connect, database_file
from shop.till import CardDeclined, PaymentsUnavailable, Till, client

STATUS_OF: dict[type[Exception], int] = {
    NoSuchProduct: 404,
    NoSuchCart: 404,
    NoSuchOrder: 404,
    EmptyCart: 409,
    OutOfStock: 409,
    CardDeclined: 402,
    PaymentsUnavailable: 503,
}

Quantity = Annotated[int, Field(ge=1, le=1_000)]


class NewCart(BaseModel):
    """`quantities` is how many pieces of each product number."""

    customer: str
    quantities: dict[int, Quantity] = Field(default_factory=dict[int, Quantity])


class Pieces(BaseModel):
    """How many of a product."""

    quantity: Quantity


class Payment(BaseModel):
    """What a checkout needs to know."""

    card: Annotated[str, Field(pattern=r"^[0-9]{16}$")]


def database() -> Iterator[sqlite3.Connection]:
    """A connection for one request."""
    with closing(connect(database_file())) as connection:
        yield connection


def till(request: Request) -> Till:
    """The application's one till."""
    found = request.app.state.till
    assert isinstance(found, Till)
    return found


Database = Annotated[sqlite3.Connection, Depends(database)]
TheTill = Annotated[Till, Depends(till)]

app = FastAPI(title="shop front", openapi_url=None)
clew.integrations.fastapi.instrument(app)
app.state.till = Till(os.environ.get("SHOP_PAYMENTS", "http://127.0.0.1:8001").split(), client())


@app.get("/products")
def list_products(database: Database, page: Annotated[int, Field(ge=1)] = 1) -> list[Product]:
    return catalogue.page(database, page)


@app.get("/products/{product_id}")
def show_product(database: Database, product_id: int) -> Product:
    return catalogue.product(database, product_id)


@app.get("/search")
def search(database: Database, words: str) -> list[Product]:
    return catalogue.search(database, words)


@app.post("/carts", status_code=201)
def open_cart(database: Database, new: NewCart) -> dict[str, str]:
    return {"id": carts.open_cart(database, new.customer, new.quantities)}


@app.put("/carts/{cart_id}/lines/{product_id}", status_code=204)
def fill_cart(database: Database, cart_id: str, product_id: int, pieces: Pieces) -> None:
    carts.put(database, cart_id, product_id, pieces.quantity)


@app.get("/carts/{cart_id}")
def show_cart(database: Database, cart_id: str) -> Cart:
    return carts.cart(database, cart_id)


@app.post("/carts/{cart_id}/checkout", status_code=201)
def check_out(database: Database, till: TheTill, cart_id: str, payment: Payment) -> Order:
    return checkout.check_out(database, till, carts.cart(database, cart_id), payment.card)


@app.get("/orders/{order_id}")
def show_order(database: Database, order_id: str) -> Order:
    return checkout.order(database, order_id)


def answer_with(status: int) -> Callable[[Request, Exception], JSONResponse]:
    """A handler that answers an exception with this status."""

    def answer(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": type(error).__name__, "detail": str(error)}, status)

    return answer


for _error, _status in STATUS_OF.items():
    app.add_exception_handler(_error, answer_with(_status))
