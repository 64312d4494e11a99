"""What is in the shop on the first morning: its products, and the orders of the past."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from itertools import product
from pathlib import Path

from shop.database import SCHEMA, connect, create, transaction

ADJECTIVES = ("small", "large", "striped", "plain", "warm", "light", "soft", "sturdy", "classic", "bright")
MATERIALS = ("wool", "cotton", "linen", "silk", "felt", "leather", "cork", "oak", "steel", "glass")
THINGS = ("scarf", "blanket", "basket", "lamp", "cushion", "bowl", "box", "apron", "hat", "rug", "tray", "bag")

GIFT_CARD = 1
"""Weighs nothing."""
SOLD_OUT = 2
"""Never in stock."""
FIRST_ORDINARY = 3

PAST_ORDERS = 4_000


def seed(file: Path) -> None:
    """Make the shop's database and fill it, the same each time."""
    create(file, SCHEMA)
    dice = random.Random("the first morning")
    with closing(connect(file)) as connection, transaction(connection):
        products = _add_products(connection, dice)
        _add_past_orders(connection, dice, products)


def _add_products(connection: sqlite3.Connection, dice: random.Random) -> int:
    rows = [
        (GIFT_CARD, "gift card", "Let them choose for themselves. Comes by mail.", 2_500, 0, 1_000_000),
        (SOLD_OUT, "first edition print", "Numbered and signed; there were only fifty.", 18_000, 400, 0),
    ]
    for number, (adjective, material, thing) in enumerate(product(ADJECTIVES, MATERIALS, THINGS), FIRST_ORDINARY):
        name = f"{adjective} {material} {thing}"
        description = f"A {name}, made by hand. Goes well with {dice.choice(MATERIALS)}."
        rows.append((number, name, description, dice.randrange(500, 20_000), dice.randrange(100, 6_000), 1_000_000))
    connection.executemany("INSERT INTO products VALUES (?, ?, ?, ?, ?, ?)", rows)
    return len(rows)


def _add_past_orders(connection: sqlite3.Connection, dice: random.Random, products: int) -> None:
    orders = [(f"past-{number}", f"customer-{dice.randrange(500)}") for number in range(PAST_ORDERS)]
    connection.executemany("INSERT INTO orders VALUES (?, ?, 0, 1, 'shipped', NULL)", orders)
    connection.executemany(
        "INSERT INTO order_lines VALUES (?, ?, ?)",
        (
            (order, chosen, dice.randrange(1, 4))
            for order, _ in orders
            for chosen in dice.sample(range(FIRST_ORDINARY, products + 1), dice.randrange(1, 6))
        ),
    )
