"""The load: customers of several kinds, a few thousand requests, in bursts.

    python -m shop.load http://127.0.0.1:8000 --requests 3000 --seconds 30 --seed 7 --format json

The seed decides who comes when, what each looks for, buys and pays with; only the answers are the shop's own. It sends
exactly as many requests as asked for, unless its time is over first, and reports the answers exactly.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from shop.provider import DECLINED
from shop.seed import ADJECTIVES, FIRST_ORDINARY, GIFT_CARD, MATERIALS, SOLD_OUT, THINGS

PRODUCTS = len(ADJECTIVES) * len(MATERIALS) * len(THINGS)
GOOD_CARD = "4000000000000001"
BAD_CARD = "400000000000" + DECLINED

PAUSE = 0.15
"""In seconds: how long a customer looks at a page, on average."""
AT_ONCE = 40
"""How many customers are in the shop at most; the others wait."""
PATIENCE = 120.0
"""In seconds: how long a customer waits for an answer. Nobody leaves early, or the counts could not be exact."""
IDLE = 2.0
"""In seconds: how long a connection is kept for the next request. The server keeps it 5 s; a request that is sent
just when the other side closes the connection is lost."""
OVERTIME = 60.0
"""In seconds: this long after the last customer should have come no further request is sent."""


@dataclass(frozen=True)
class Answered:
    """One request that was sent: `status` is the answer's, or the name of what went wrong without one.

    `request_id` is the one in the shop's answer, `was_named` whether the customer sent it. `started` is in
    seconds since 1970, `duration` in seconds.
    """

    route: str
    status: str
    request_id: str | None
    was_named: bool
    started: float
    duration: float


@dataclass
class Sent:
    """What the load has sent. `requests` lists each, in the order of the answers."""

    seed: int
    seconds: float = 0.0
    requests: list[Answered] = field(default_factory=list[Answered])

    def outcomes(self) -> dict[str, dict[str, int]]:
        """How many requests of each route had each status, the most asked for first."""
        counted: dict[str, Counter[str]] = defaultdict(Counter)
        for request in self.requests:
            counted[request.route][request.status] += 1
        routes = sorted(counted, key=lambda route: (-counted[route].total(), route))
        return {route: dict(sorted(counted[route].items())) for route in routes}

    def count(self, route: str, *statuses: str) -> int:
        """How many requests of a route had one of these statuses; any status where none is given."""
        return sum(n for status, n in self.outcomes().get(route, {}).items() if not statuses or status in statuses)

    def as_json(self, *, each: bool = False) -> dict[str, Any]:
        """What ``--format json`` prints; with `each` every single request too."""
        answer: dict[str, Any] = {
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "sent": len(self.requests),
            "named_by_customers": sum(request.was_named for request in self.requests),
            "outcomes": self.outcomes(),
        }
        if each:
            answer["requests"] = [asdict(request) for request in self.requests]
        return answer


Step = Callable[["Customer"], Awaitable[None]]


class Customer:
    """One visit: a customer's way through the shop. Customers with a `name` name their requests themselves."""

    def __init__(self, client: httpx.AsyncClient, name: str | None, sent: Sent) -> None:
        self._client = client
        self._name = name
        self._sent = sent
        self._asked = 0
        self.cart = "none"
        self.order: str | None = None

    async def ask(
        self,
        method: str,
        route: str,
        *,
        body: object = None,
        query: dict[str, str] | None = None,
        last: bool = False,
        **path: object,
    ) -> Any:
        """Send one request and write down how it was answered; returns the body where the answer is good.

        With `last` nothing is sent on its connection after it: after a bug's 500 uvicorn hangs up, and the next request
        could be under way already.
        """
        self._asked += 1
        given = None if self._name is None else f"{self._name}-{self._asked:02}"
        headers = {} if given is None else {"X-Request-ID": given}
        if last:
            headers["Connection"] = "close"
        started, clock = time.time(), time.perf_counter()
        answer: httpx.Response | None = None
        try:
            answer = await self._client.request(method, route.format(**path), json=body, params=query, headers=headers)
            status = str(answer.status_code)
        except httpx.HTTPError as error:
            status = type(error).__name__
        duration = time.perf_counter() - clock
        request_id = given if answer is None else answer.headers.get("X-Request-ID", given)
        self._sent.requests.append(
            Answered(f"{method} {route}", status, request_id, given is not None, started, duration)
        )
        return answer.json() if answer is not None and answer.is_success and answer.content else None


def browse(page: int) -> Step:
    """Leaf through the catalogue."""
    return lambda customer: customer.ask("GET", "/products", query={"page": str(page)})


def look(product: int) -> Step:
    """Look at one product."""
    return lambda customer: customer.ask("GET", "/products/{product_id}", product_id=product)


def search(words: str) -> Step:
    """Search for words."""
    return lambda customer: customer.ask("GET", "/search", query={"words": words})


def put(product: int, quantity: int) -> Step:
    """Put a product into the cart."""
    return lambda customer: customer.ask(
        "PUT",
        "/carts/{cart_id}/lines/{product_id}",
        body={"quantity": quantity},
        cart_id=customer.cart,
        product_id=product,
    )


def show_cart(customer: Customer) -> Awaitable[None]:
    """Look into the cart."""
    return customer.ask("GET", "/carts/{cart_id}", cart_id=customer.cart)


def open_cart(name: str, quantities: dict[int, int]) -> Step:
    """Take a cart, with some products in it already."""

    async def step(customer: Customer) -> None:
        body = {"customer": name, "quantities": quantities}
        opened = await customer.ask("POST", "/carts", body=body)
        customer.cart = opened["id"] if opened else "none"

    return step


def check_out(card: str) -> Step:
    """Pay."""

    async def step(customer: Customer) -> None:
        order = await customer.ask(
            "POST", "/carts/{cart_id}/checkout", body={"card": card}, last=True, cart_id=customer.cart
        )
        customer.order = order["id"] if order else None

    return step


async def track(customer: Customer) -> None:
    """See how far the order is; who could not order looks into the cart again."""
    if customer.order is None:
        await show_cart(customer)
    else:
        await customer.ask("GET", "/orders/{order_id}", order_id=customer.order)


# ------------------------------------------------------------------------------------------------ who comes, and when


@dataclass(frozen=True)
class Visit:
    """A customer who comes `start` seconds after the beginning; before each step comes the pause of the same place."""

    start: float
    name: str | None
    steps: Sequence[Step]
    pauses: Sequence[float]


def visits(seed: int, requests: int, seconds: float) -> list[Visit]:
    """Plan visits of `requests` requests in all, spread over `seconds`, in the order of their start."""
    planned: list[Visit] = []
    left = requests
    while left:
        dice = random.Random(f"{seed}/{len(planned)}")
        kind = dice.choices([_window_shopper, _searcher, _buyer, _trader], [30, 20, 45, 5])[0]
        steps = list(kind(dice))[:left]
        name = f"app-{seed}-{len(planned):04}" if dice.random() < 0.4 else None
        pauses = [0.0, *(dice.expovariate(1 / PAUSE) for _ in steps[1:])]
        planned.append(Visit(_arrival(dice) * seconds, name, steps, pauses))
        left -= len(steps)
    return sorted(planned, key=lambda visit: visit.start)


def _arrival(dice: random.Random) -> float:
    """When in the day somebody comes, from 0 to 1: six in ten at any time, the others in three rushes."""
    if dice.random() < 0.6:
        return dice.random()
    return min(max(dice.gauss(dice.choice((0.2, 0.5, 0.8)), 0.02), 0.0), 1.0)


def _window_shopper(dice: random.Random) -> Iterator[Step]:
    for page in range(1, dice.randrange(2, 5)):
        yield browse(page)
        yield look(_product(dice))


def _searcher(dice: random.Random) -> Iterator[Step]:
    for _ in range(dice.randrange(1, 3)):
        yield search(_words(dice))
        yield look(_product(dice))


def _buyer(dice: random.Random) -> Iterator[Step]:
    yield look(_product(dice))
    if dice.random() < 0.04:
        yield open_cart(_customer(dice), {GIFT_CARD: 1})
    else:
        yield open_cart(_customer(dice), {})
        for _ in range(dice.randrange(1, 4)):
            yield put(_product(dice), dice.randrange(1, 4))
        if dice.random() < 0.03:
            yield put(SOLD_OUT, 1)
    yield show_cart
    yield check_out(BAD_CARD if dice.random() < 0.06 else GOOD_CARD)
    yield track


def _trader(dice: random.Random) -> Iterator[Step]:
    yield open_cart(_customer(dice), {_product(dice): dice.randrange(5, 50) for _ in range(dice.randrange(40, 70))})
    yield check_out(GOOD_CARD)
    yield track


def _product(dice: random.Random) -> int:
    return dice.randrange(FIRST_ORDINARY, FIRST_ORDINARY + PRODUCTS)


def _words(dice: random.Random) -> str:
    """Most people know what they want; some ask for everything made of wool."""
    words = [dice.choice(ADJECTIVES), dice.choice(MATERIALS), dice.choice(THINGS)]
    return " ".join(words) if dice.random() < 0.7 else dice.choice(words)


def _customer(dice: random.Random) -> str:
    return f"customer-{dice.randrange(500)}"


# ----------------------------------------------------------------------------------------------------------- sending


def drive(
    front: str,
    *,
    requests: int = 3_000,
    seconds: float = 30.0,
    seed: int = 1,
    sick: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Sent:
    """Send the load and return what was answered.

    Args:
        front: The front's address, such as ``http://127.0.0.1:8000``.
        requests: How many to send.
        seconds: How long the customers keep coming.
        seed: Decides everything but the answers.
        sick: The address of an instance of the payments service; its provider is sick for the middle third of the
            time. The two requests that make it so and well again are not counted.
        progress: Called now and then with how many requests have been answered.
    """
    return asyncio.run(_drive(front, visits(seed, requests, seconds), seconds, seed, sick, progress))


async def _drive(
    front: str,
    planned: Sequence[Visit],
    seconds: float,
    seed: int,
    sick: str | None,
    progress: Callable[[int], None] | None,
) -> Sent:
    sent = Sent(seed)
    began = time.perf_counter()
    places = asyncio.Semaphore(AT_ONCE)
    limits = httpx.Limits(max_connections=AT_ONCE, keepalive_expiry=IDLE)
    async with httpx.AsyncClient(base_url=front, timeout=PATIENCE, limits=limits, trust_env=False) as client:

        async def come(visit: Visit) -> None:
            await asyncio.sleep(visit.start)
            async with places:
                customer = Customer(client, visit.name, sent)
                for pause, step in zip(visit.pauses, visit.steps, strict=True):
                    await asyncio.sleep(pause)
                    if time.perf_counter() - began > seconds + OVERTIME:
                        return
                    await step(customer)
                    if progress:
                        progress(len(sent.requests))

        illness = asyncio.create_task(_be_sick(sick, seconds)) if sick else None
        await asyncio.gather(*map(come, planned))
        if illness:
            await illness
    sent.seconds = time.perf_counter() - began
    return sent


async def _be_sick(payments: str, seconds: float) -> None:
    async with httpx.AsyncClient(base_url=payments, timeout=PATIENCE, trust_env=False) as client:
        for is_sick in (True, False):
            await asyncio.sleep(seconds / 3)
            answer = await client.put("/provider", json={"sick": is_sick})
            answer.raise_for_status()


# ------------------------------------------------------------------------------------------------------ command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 1 where a request had no answer at all."""
    parser = argparse.ArgumentParser(prog="python -m shop.load", description="Customers for the shop.")
    parser.add_argument("front", help="the front's address, such as http://127.0.0.1:8000")
    parser.add_argument("--requests", type=_positive_int, default=3_000, help="how many (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=_positive, default=30.0, help="how long they keep coming (default: %(default)g)"
    )
    parser.add_argument("--seed", type=int, default=1, help="decides who comes when and wants what (default: 1)")
    parser.add_argument("--sick", metavar="ADDRESS", help="a payments instance to be sick for the middle third")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--each", action="store_true", help="with --format json: every single request too")
    chosen = parser.parse_args(arguments)
    sent = drive(chosen.front, requests=chosen.requests, seconds=chosen.seconds, seed=chosen.seed, sick=chosen.sick)
    if chosen.format == "json":
        print(json.dumps(sent.as_json(each=chosen.each), indent=2))
    else:
        print_sent(sent)
    return 0 if all(request.status.isdecimal() for request in sent.requests) else 1


def print_sent(sent: Sent) -> None:
    """Print what was sent as a table."""
    named = sum(request.was_named for request in sent.requests)
    print(f"{len(sent.requests)} requests in {sent.seconds:.1f} s (seed {sent.seed}); {named} named by the customers")
    for route, statuses in sent.outcomes().items():
        answers = "  ".join(f"{status}: {count}" for status, count in statuses.items())
        print(f"  {route:40} {sum(statuses.values()):6}   {answers}")


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not over 0 and at most 3600")
    return number


def _positive_int(text: str) -> int:
    number = int(text)
    if not 0 < number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 1000000")
    return number


if __name__ == "__main__":
    sys.exit(main())
