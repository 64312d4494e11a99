"""What every application of the matrix does in a request, whatever serves it: it logs, measures, and asks the stock."""

from __future__ import annotations

import json
import logging.config
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
from opentelemetry import trace

import clew
from clew.integrations import httpx as httpx_hook

LOGGING = json.loads(Path(__file__).with_name("logging.json").read_text())
"""The logging of all applications: each line names its logger and its request."""

CONTRIB = bool(os.environ.get("SHOP_CONTRIB"))
"""Whether opentelemetry-python-contrib instruments the server and the client, beside our middleware."""

PARTS = 3

telemetry = clew.configure()
logger = logging.getLogger("shop")
tracer = trace.get_tracer("shop")

if CONTRIB:
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    HTTPXClientInstrumentor().instrument()


def configure_logging() -> None:
    """For servers that have no option for their logging."""
    logging.config.dictConfig(LOGGING)


@clew.measure("look up")
def look_up(item: str) -> str:
    """Log and be measured; returns the request ID that is bound here."""
    with tracer.start_as_current_span("query"):
        logger.info("looked up %s", item)
    return str(clew.request_id())


def ask_stock() -> None:
    """Call the service behind, with a client of ours or, instrumented by contrib, any."""
    with httpx.Client() if CONTRIB else httpx_hook.instrument(httpx.Client()) as client:
        client.get(os.environ["STOCK_URL"])


async def ask_stock_async() -> None:
    async with httpx.AsyncClient() if CONTRIB else httpx_hook.instrument(httpx.AsyncClient()) as client:
        await client.get(os.environ["STOCK_URL"])


def fail() -> None:
    raise RuntimeError("the handler failed")


def parts() -> Iterator[bytes]:
    """The parts of a stream, each of which says whose it is."""
    for _ in range(PARTS):
        yield f"{clew.request_id()} ".encode()


async def async_parts() -> AsyncIterator[bytes]:
    for part in parts():
        yield part
