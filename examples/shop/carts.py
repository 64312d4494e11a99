"""The customers' carts."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from shop.catalogue import NoSuchProduct
from shop.database import transaction

LARGE = 20
"""A cart with as many lines, or more, is a trader's."""


@dataclass(frozen=True)
class Line:
    """Some pieces of one product: `price` in euro cents and `grams` are those of one piece."""

    product_id: int
    name: str
    quantity: int
    price: int
    grams: int


@dataclass(frozen=True)
class Cart:
    """What one customer wants to buy."""

    id: str
    customer: str
    lines: tuple[Line, ...]

    @property
    def tier(self) -> str:
        """``trade`` or ``private``."""
        return "trade" if len(self.lines) >= LARGE else "private"


class NoSuchCart(Exception):
    """There is no cart of this name."""


def open_cart(connection: sqlite3.Connection, customer: str, quantities: Mapping[int, int]) -> str:
    """Make a cart with these quantities by product number and return its name.

    Raises:
        NoSuchProduct: One of the products does not exist.
    """
    cart_id = uuid.uuid4().hex
    with transaction(connection):
        connection.execute("INSERT INTO carts VALUES (?, ?)", (cart_id, customer))
        for product_id, quantity in quantities.items():
            _put(connection, cart_id, product_id, quantity)
    return cart_id


def put(connection: sqlite3.Connection, cart_id: str, product_id: int, quantity: int) -> None:
    """Set how many pieces of a product are in a cart.

    Raises:
        NoSuchCart: There is no such cart.
        NoSuchProduct: There is no such product.
    """
    with transaction(connection):
        if connection.execute("SELECT 1 FROM carts WHERE id = ?", (cart_id,)).fetchone() is None:
            raise NoSuchCart(cart_id)
        _put(connection, cart_id, product_id, quantity)


def cart(connection: sqlite3.Connection, cart_id: str) -> Cart:
    """A cart with what is in it.

    Raises:
        NoSuchCart: There is no such cart.
    """
    found = connection.execute("SELECT customer FROM carts WHERE id = ?", (cart_id,)).fetchone()
    if found is None:
        raise NoSuchCart(cart_id)
    lines = connection.execute(
        """
        SELECT product_id, name, quantity, price, grams
        FROM cart_lines JOIN products ON products.id = product_id
        WHERE cart_id = ?
        """,
        (cart_id,),
    )
    return Cart(cart_id, found["customer"], tuple(Line(*line) for line in lines))


def _put(connection: sqlite3.Connection, cart_id: str, product_id: int, quantity: int) -> None:
    try:
        connection.execute(
            "INSERT INTO cart_lines VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET quantity = excluded.quantity",
            (cart_id, product_id, quantity),
        )
    except sqlite3.IntegrityError:  # the foreign key: the cart is there, so it is the product
        raise NoSuchProduct(product_id) from None


def empty(connection: sqlite3.Connection, cart_id: str) -> None:
    """Take everything out of a cart, as part of the caller's transaction."""
    connection.execute("DELETE FROM cart_lines WHERE cart_id = ?", (cart_id,))
