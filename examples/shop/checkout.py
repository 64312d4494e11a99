"""From a cart to a paid order."""

from __future__ import annotations

import logging
import sqlite3
import uuid
from dataclasses import dataclass

import clew
from shop import carts, jobs
from shop.carts import Cart
from shop.database import transaction
from shop.postage import Postage, postage
from shop.till import CardDeclined, Till

log = logging.getLogger(__name__)

orders = clew.counter("shop.orders", unit="{order}", description="Orders that were paid.")
order_values = clew.histogram(
    "shop.order.value", unit="EUR", description="What orders cost.", bounds=[10, 25, 50, 100, 250, 500, 1_000, 5_000]
)


@dataclass(frozen=True)
class Order:
    """`total` is in euro cents, postage included; `tracking` is None until a carrier has the parcels."""

    id: str
    state: str
    total: int
    parcels: int
    tracking: str | None


class EmptyCart(Exception):
    """There is nothing in the cart."""


class OutOfStock(Exception):
    """There is not enough of a product; the message names it."""


class NoSuchOrder(Exception):
    """There is no order of this name."""


def _tier(cart: Cart) -> dict[str, str]:
    return {"shop.tier": cart.tier}


@clew.measure("check out", attributes=_tier, expected=(EmptyCart, OutOfStock, CardDeclined))
def check_out(connection: sqlite3.Connection, till: Till, cart: Cart, card: str) -> Order:
    """Reserve what is in a cart, take the money, and let the worker send it.

    What the customer can put right is no failure of the shop; anything else is.

    Raises:
        EmptyCart: The cart is empty.
        OutOfStock: There is not enough of something; nothing is reserved.
        CardDeclined: The card is not good; the reservation is taken back.
        PaymentsUnavailable: Nobody could say whether the card is good; the reservation is taken back.
    """
    if not cart.lines:
        raise EmptyCart(cart.id)
    postage_ = postage(cart.lines)
    total = sum(line.price * line.quantity for line in cart.lines) + postage_.price
    order_id = _reserve(connection, cart, total, postage_)
    try:
        till.charge(order_id, card, total)
    except Exception:
        _cancel(connection, order_id)
        raise
    _confirm(connection, cart, order_id)
    orders.add(1, _tier(cart))
    order_values.record(total / 100)
    log.info("order %s is paid: %d lines, %.2f EUR", order_id, len(cart.lines), total / 100)
    return Order(order_id, "paid", total, postage_.parcels, None)


def order(connection: sqlite3.Connection, order_id: str) -> Order:
    """How far an order is.

    Raises:
        NoSuchOrder: There is none of this name.
    """
    row = connection.execute(
        "SELECT id, state, total, parcels, tracking FROM orders WHERE id = ?", (order_id,)
    ).fetchone()
    if row is None:
        raise NoSuchOrder(order_id)
    return Order(*row)


@clew.measure("reserve stock", expected=OutOfStock)
def _reserve(connection: sqlite3.Connection, cart: Cart, total: int, postage: Postage) -> str:
    order_id = uuid.uuid4().hex
    with transaction(connection):
        connection.execute(
            "INSERT INTO orders (id, customer, total, parcels, state) VALUES (?, ?, ?, ?, 'unpaid')",
            (order_id, cart.customer, total, postage.parcels),
        )
        for line in cart.lines:
            taken = connection.execute(
                "UPDATE products SET stock = stock - :quantity WHERE id = :product AND stock >= :quantity",
                {"product": line.product_id, "quantity": line.quantity},
            )
            if not taken.rowcount:
                raise OutOfStock(line.name)
            connection.execute("INSERT INTO order_lines VALUES (?, ?, ?)", (order_id, line.product_id, line.quantity))
    return order_id


def _cancel(connection: sqlite3.Connection, order_id: str) -> None:
    with transaction(connection):
        connection.execute("UPDATE orders SET state = 'cancelled' WHERE id = ?", (order_id,))
        for line in connection.execute(
            "SELECT product_id, quantity FROM order_lines WHERE order_id = ?", (order_id,)
        ).fetchall():
            connection.execute(
                "UPDATE products SET stock = stock + ? WHERE id = ?", (line["quantity"], line["product_id"])
            )
    log.info("order %s is cancelled", order_id)


def _confirm(connection: sqlite3.Connection, cart: Cart, order_id: str) -> None:
    with transaction(connection):
        connection.execute("UPDATE orders SET state = 'paid' WHERE id = ?", (order_id,))
        carts.empty(connection, cart.id)
        jobs.add(connection, order_id)
