"""The front's way to the payments service: one of its instances after the other, over HTTP."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import httpx

import clew.integrations.httpx

log = logging.getLogger(__name__)

TIMEOUT = 60.0
"""In seconds: longer than the payment provider takes on its worst day, since a payment given up may still be made."""
IDLE = 2.0
"""In seconds: how long a connection is kept for the next payment. The service keeps it 5 s; a request that is sent
just when the other side closes the connection gets no answer."""


class CardDeclined(Exception):
    """The customer's bank does not want to pay."""


class PaymentsUnavailable(Exception):
    """The payments service could not say whether the card is good."""


def client() -> httpx.Client:
    """A client for the payments service: no proxy, and the request ID goes with each call."""
    return clew.integrations.httpx.instrument(
        httpx.Client(trust_env=False, timeout=TIMEOUT, limits=httpx.Limits(keepalive_expiry=IDLE))
    )


class Till:
    """Takes money by asking the payments service."""

    def __init__(self, addresses: Sequence[str], client: httpx.Client) -> None:
        if not addresses:
            raise ValueError("The till needs the address of at least one instance of the payments service")
        self._client = client
        self._addresses = itertools.cycle(address.rstrip("/") for address in addresses)

    def charge(self, order_id: str, card: str, amount: int) -> None:
        """Take `amount` euro cents for an order.

        Raises:
            CardDeclined: The card is not good for it.
            PaymentsUnavailable: The service is unavailable, or its answer makes no sense.
        """
        with clew.measure("charge card", expected=CardDeclined) as charging:
            charging.note("order.id", order_id)
            payment = {"order_id": order_id, "card": card, "amount": amount}
            try:
                answer = self._client.post(f"{next(self._addresses)}/payments", json=payment)
            except httpx.HTTPError as error:
                log.error("no answer from payments for order %s: %r", order_id, error)
                raise PaymentsUnavailable("no answer") from error
            if answer.status_code == 402:
                charging.fail("declined")
                raise CardDeclined(order_id)
            if answer.status_code != 201:
                log.error("payments answered %d for order %s", answer.status_code, order_id)
                raise PaymentsUnavailable(f"status {answer.status_code}")
