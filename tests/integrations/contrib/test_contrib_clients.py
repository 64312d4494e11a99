"""Contrib's client instrumentations send the ID on by the propagator, to allowed hosts alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import propagate
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from serving import Address

import clew
from clew.policy import policy
from clew.propagation.propagator import RequestIdPropagator

pytest.importorskip("opentelemetry.instrumentation.requests", reason="opentelemetry-instrumentation-* is not installed")

import aiohttp
import httpx
import requests
import urllib3
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor


@pytest.fixture(autouse=True)
def propagators(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(CompositePropagator([TraceContextTextMapPropagator(), RequestIdPropagator()]))
    yield
    propagate.set_global_textmap(before)


def ask_requests(url: str) -> None:
    requests.get(url, timeout=60)


def ask_httpx(url: str) -> None:
    httpx.get(url, follow_redirects=True)


def ask_urllib3(url: str) -> None:
    with urllib3.PoolManager() as pool:
        pool.request("GET", url)


def ask_aiohttp(url: str) -> None:
    async def ask() -> None:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            await response.read()

    asyncio.run(ask())


@contextmanager
def instrumented(instrumentor: Any, provider: TracerProvider) -> Iterator[None]:
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield
    finally:
        instrumentor.uninstrument()


CLIENTS = {
    "requests": (ask_requests, RequestsInstrumentor),
    "httpx": (ask_httpx, HTTPXClientInstrumentor),
    "urllib3": (ask_urllib3, URLLib3Instrumentor),
    "aiohttp": (ask_aiohttp, AioHttpClientInstrumentor),
}
clients = pytest.mark.parametrize("client", CLIENTS)


class Servers:
    def __init__(self, serve: Callable[[Any], Address]) -> None:
        self.received: list[tuple[str, str | None]] = []
        self.port = serve(self._answer).port

    def _answer(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        self.received.append((environ["HTTP_HOST"].split(":")[0], environ.get("HTTP_X_REQUEST_ID")))
        target = environ["QUERY_STRING"]
        start_response(*(("302 Found", [("Location", target)]) if target else ("200 OK", [])))
        return [b""]

    def url(self, host: str) -> str:
        return f"http://{host}:{self.port}/"


@pytest.fixture
def servers(wsgi_server: Callable[[Any], Address]) -> Servers:
    return Servers(wsgi_server)


@clients
@pytest.mark.parametrize("convention", ["http", ""])
def test_the_id_goes_with_the_call(
    client: str, convention: str, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", convention)
    ask, instrumentor = CLIENTS[client]
    with instrumented(instrumentor(), TracerProvider(shutdown_on_exit=False)), clew.request("abc"):
        ask(servers.url("127.0.0.1"))
        monkeypatch.setattr(policy, "hosts", (f"127.0.0.1:{servers.port}",))
        ask(servers.url("127.0.0.1"))
        ask(servers.url("localhost"))
    assert servers.received == [("127.0.0.1", "abc"), ("127.0.0.1", "abc"), ("localhost", None)]


@clients
def test_a_redirect_does_not_carry_the_id_to_a_host_that_may_not_have_it(
    client: str, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "hosts", ("127.0.0.1",))
    ask, instrumentor = CLIENTS[client]
    with instrumented(instrumentor(), TracerProvider(shutdown_on_exit=False)), clew.request("abc"):
        ask(f"{servers.url('127.0.0.1')}?{servers.url('localhost')}")
    assert servers.received == [("127.0.0.1", "abc"), ("localhost", None)]


@clients
def test_with_hosts_set_an_unsampled_call_does_not_send_it(
    client: str, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "hosts", ("127.0.0.1",))
    ask, instrumentor = CLIENTS[client]
    with instrumented(instrumentor(), TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)), clew.request("abc"):
        ask(servers.url("127.0.0.1"))
    assert servers.received == [("127.0.0.1", None)]
