"""The applications that `python -m benchmarks.middleware` lets uvicorn and gunicorn serve, and how they are asked.

``SERVED`` in the environment says which middleware stands around the application.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.load import Burst, Client, Server
from benchmarks.middleware_stacks import GIVEN, asgi_stacks, wsgi_stacks
from benchmarks.statistics import Spread, paired_ratio, spread

COMMANDS = {
    "uvicorn": (
        *("-m", "uvicorn", "--factory", "benchmarks.middleware_servers:asgi", "--port", "{port}"),
        *("--log-level", "warning", "--no-access-log", "--timeout-keep-alive", "600"),
    ),
    "gunicorn": (
        *("-m", "gunicorn", "benchmarks.middleware_servers:wsgi()", "--bind", "127.0.0.1:{port}"),
        *("--worker-class", "gthread", "--threads", "2", "--workers", "1", "--keep-alive", "600"),
        *("--log-level", "warning", "--no-control-socket"),
    ),
}
SERVED = {
    "uvicorn": ("asgi-bare", "asgi-correlation-id", "clew-asgi", "clew-asgi-full"),
    "gunicorn": ("wsgi-bare", "wsgi-by-hand", "clew-wsgi", "clew-wsgi-full"),
}
CONNECTIONS = 8


def asgi() -> Any:
    """Return the ASGI application that the environment names."""
    return _served(asgi_stacks())


def wsgi() -> Any:
    """Return the WSGI application that the environment names."""
    return _served(wsgi_stacks())


def _served(stacks: Any) -> Any:
    import clew

    if os.environ["SERVED"].startswith("clew"):
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        clew.configure(metric_readers=[InMemoryMetricReader()])
    for stack in stacks:
        if not isinstance(stack, str) and stack.key == os.environ["SERVED"]:
            return stack.application
    raise LookupError(os.environ["SERVED"])


@dataclass(frozen=True)
class Outcome:
    """One application behind one server; its ratios are those within rounds to the application with no middleware."""

    server: str
    key: str
    label: str
    rate: Spread
    cost: Spread
    rate_ratio: Spread
    cost_ratio: Spread

    def as_json(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "key": self.key,
            "label": self.label,
            "requests_per_second": self.rate.as_json(),
            "processor_us_per_request": self.cost.as_json(),
            "rate_over_none": self.rate_ratio.as_json(),
            "cost_over_none": self.cost_ratio.as_json(),
        }


def measure_server(
    name: str, labels: dict[str, str], rounds: int, seconds: float, order: random.Random
) -> tuple[list[Outcome], list[str]]:
    """Serve each application by a process of its own, all at once, and ask them in turns of so many seconds.

    Returns:
        What was found, and what went wrong: an answer without the ID.
    """
    keys = [key for key in SERVED[name] if key in labels]
    mistakes: list[str] = []
    bursts: dict[str, list[Burst]] = {key: [] for key in keys}
    with ExitStack() as stack:
        servers = {key: Server(COMMANDS[name], {"SERVED": key}) for key in keys}
        for server in servers.values():
            stack.callback(server.stop)
        clients: dict[str, Client] = {}
        for key, server in servers.items():
            server.wait()
            clients[key] = Client(server.port, CONNECTIONS, [f"X-Request-ID: {GIVEN}"])
            stack.callback(clients[key].close)
            echoed = f"x-request-id: {GIVEN}".encode() in clients[key].answer().lower()
            if echoed is key.endswith("-bare"):
                mistakes.append(f"{name}: {key} answered {'with' if echoed else 'without'} the request ID")
            clients[key].burst(server, seconds / 2)  # until the interpreter has specialised its code
        for _ in range(rounds):
            turns = list(keys)
            order.shuffle(turns)
            for key in turns:
                bursts[key].append(clients[key].burst(servers[key], seconds))
    return [_outcome(name, key, labels[key], bursts[key], bursts[keys[0]]) for key in keys], mistakes


def _outcome(server: str, key: str, label: str, found: Sequence[Burst], none: Sequence[Burst]) -> Outcome:
    rates, costs = [one.rate for one in found], [one.cost for one in found]
    return Outcome(
        server,
        key,
        label,
        spread(rates),
        spread(costs),
        paired_ratio(rates, [one.rate for one in none]),
        paired_ratio(costs, [one.cost for one in none]),
    )
