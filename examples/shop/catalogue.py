"""What the shop sells."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import clew

PAGE = 20


@dataclass(frozen=True)
class Product:
    """`price` is in euro cents."""

    id: int
    name: str
    price: int


class NoSuchProduct(Exception):
    """There is no product of this number."""


def page(connection: sqlite3.Connection, number: int) -> list[Product]:
    """The products of page `number`, counted from 1."""
    rows = connection.execute(
        "SELECT id, name, price FROM products ORDER BY id LIMIT ? OFFSET ?", (PAGE, (number - 1) * PAGE)
    )
    return [Product(*row) for row in rows]


def product(connection: sqlite3.Connection, product_id: int) -> Product:
    """One product.

    Raises:
        NoSuchProduct: There is none of this number.
    """
    row = connection.execute("SELECT id, name, price FROM products WHERE id = ?", (product_id,)).fetchone()
    if row is None:
        raise NoSuchProduct(product_id)
    return Product(*row)


@clew.measure("search products")
def search(connection: sqlite3.Connection, words: str) -> list[Product]:
    """The products whose description has all these words, the most sold first.

    THE SLOW PATH of this example: for each product that matches, all order lines ever written are read. It was quick
    when the shop was new.
    """
    wanted = words.split()
    rows = connection.execute(
        f"""
        SELECT id, name, price,
               (SELECT sum(quantity) FROM order_lines WHERE product_id = products.id) AS sold
        FROM products
        WHERE {" AND ".join(["description LIKE '%' || ? || '%'"] * len(wanted)) or "TRUE"}
        ORDER BY sold DESC LIMIT {PAGE}
        """,
        wanted,
    )
    return [Product(row["id"], row["name"], row["price"]) for row in rows]
