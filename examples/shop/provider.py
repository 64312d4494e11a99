"""The payment provider, which is another company's: this module stands for it, and its delays are simulated.

A real shop would call a bank here. On a good day it answers in a few milliseconds; when it is sick, as one of the
payments instances finds it during the example's sick hour, it takes its time, and now and then gives up.
"""

from __future__ import annotations

import random
import time

DECLINED = "0002"
"""How the numbers of cards end that are not good."""


class ProviderUnavailable(Exception):
    """The provider gave up."""


class Provider:
    """What it does with an order depends on the order alone, and on whether it is sick."""

    def __init__(self, *, sick: bool = False) -> None:
        self.sick = sick

    def charge(self, order_id: str, card: str, amount: int) -> bool:
        """Ask for `amount` euro cents; False where the card is declined.

        Raises:
            ProviderUnavailable: It gave up, and took nothing.
        """
        dice = random.Random(order_id)
        time.sleep(dice.uniform(0.3, 0.9) if self.sick else dice.uniform(0.004, 0.015))  # the simulated delay
        if self.sick and dice.random() < 0.25:
            raise ProviderUnavailable("the provider gave up")
        return not card.endswith(DECLINED)
