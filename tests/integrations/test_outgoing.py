"""The ID in outgoing calls: httpx, requests and aiohttp against real servers, redirects between them included."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest
import requests
from serving import Address

import clew
from clew.integrations import httpx as httpx_hook
from clew.integrations import requests as requests_hook
from clew.policy import policy
from clew.propagation.hosts import is_allowed, target_of_attributes, target_of_url

ASKED = ("http://127.0.0.1:{port}", "http://localhost:{port}")


class Servers:
    """Two hosts, one of which redirects to the other, that remember the request IDs they were asked with."""

    def __init__(self, serve: Callable[[Any], Address]) -> None:
        self.received: list[tuple[str, str | None]] = []
        port = serve(self._answer).port
        self.first, self.second = (url.format(port=port) for url in ASKED)

    def _answer(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        self.received.append((environ["HTTP_HOST"].split(":")[0], environ.get("HTTP_X_REQUEST_ID")))
        target = environ["QUERY_STRING"]
        if target:
            start_response("302 Found", [("Location", target), ("Content-Length", "0")])
            return []
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]


@pytest.fixture
def servers(wsgi_server: Callable[[Any], Address]) -> Servers:
    return Servers(wsgi_server)


def by_httpx(url: str, **headers: str) -> None:
    with httpx_hook.instrument(httpx.Client(follow_redirects=True)) as client:
        assert client.get(url, headers=headers).text == "ok"


def by_httpx_async(url: str, **headers: str) -> None:
    async def ask() -> None:
        async with httpx_hook.instrument(httpx.AsyncClient(follow_redirects=True)) as client:
            assert (await client.get(url, headers=headers)).text == "ok"

    asyncio.run(ask())


def by_requests(url: str, **headers: str) -> None:
    with requests_hook.instrument(requests.Session()) as session:
        assert session.get(url, headers=headers, timeout=60).text == "ok"


def by_aiohttp(url: str, **headers: str) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    from clew.integrations import aiohttp as aiohttp_hook

    async def ask() -> None:
        async with (
            aiohttp_hook.instrument(aiohttp.ClientSession()) as session,
            session.get(url, headers=headers) as response,
        ):
            assert await response.text() == "ok"

    asyncio.run(ask())


clients = pytest.mark.parametrize("ask", [by_httpx, by_httpx_async, by_requests, by_aiohttp])


@clients
def test_the_id_goes_with_the_call(ask: Any, servers: Servers) -> None:
    with clew.request("abc"):
        ask(servers.first)
    ask(servers.first)
    assert servers.received == [("127.0.0.1", "abc"), ("127.0.0.1", None)]


@clients
def test_the_id_goes_along_redirects(ask: Any, servers: Servers) -> None:
    with clew.request("abc"):
        ask(f"{servers.first}/?{servers.second}/")
    assert servers.received == [("127.0.0.1", "abc"), ("localhost", "abc")]


@clients
def test_the_id_goes_only_to_hosts_that_may_have_it_on_every_hop(
    ask: Any, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "hosts", ("127.0.0.1",))
    with clew.request("abc"):
        ask(f"{servers.first}/?{servers.second}/")
        ask(f"{servers.second}/?{servers.first}/")
    assert servers.received == [
        ("127.0.0.1", "abc"),
        ("localhost", None),
        ("localhost", None),
        ("127.0.0.1", "abc"),
    ]


@clients
def test_a_relative_redirect_keeps_the_host(ask: Any, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "hosts", ("localhost",))
    with clew.request("abc"):
        ask(f"{servers.second}/?/elsewhere")
        ask(f"{servers.first}/?/elsewhere")
    assert servers.received == [("localhost", "abc")] * 2 + [("127.0.0.1", None)] * 2


@clients
def test_a_header_that_the_caller_sets_stays(ask: Any, servers: Servers) -> None:
    with clew.request("abc"):
        ask(servers.first, **{"X-Request-ID": "for-the-partner"})
    assert servers.received == [("127.0.0.1", "for-the-partner")]


def test_instrumenting_twice_sends_it_once_and_uninstrumenting_ends_it(servers: Servers) -> None:
    client = httpx_hook.instrument(httpx_hook.instrument(httpx.Client()))
    session = requests_hook.instrument(requests_hook.instrument(requests.Session()))
    assert len(client.event_hooks["request"]) == 1
    with clew.request("abc"), client, session:
        client.get(servers.first)
        session.get(servers.first, timeout=60)
        httpx_hook.uninstrument(client)
        requests_hook.uninstrument(session)
        client.get(servers.first)
        session.get(servers.first, timeout=60)
    assert [name for _, name in servers.received] == ["abc", "abc", None, None]


def test_hooks_of_the_application_stay() -> None:
    called: list[str] = []
    client = httpx.Client(event_hooks={"request": [lambda request: called.append("its own")]})
    httpx_hook.instrument(client)
    assert len(client.event_hooks["request"]) == 2


def test_a_session_of_aiohttp_is_instrumented_once() -> None:
    aiohttp = pytest.importorskip("aiohttp")
    from clew.integrations import aiohttp as aiohttp_hook

    async def count() -> int:
        async with aiohttp_hook.instrument(aiohttp_hook.instrument(aiohttp.ClientSession())) as session:
            return len(session.trace_configs)

    assert asyncio.run(count()) == 1
    with pytest.raises(TypeError, match="int"):
        aiohttp_hook.instrument(7)


@pytest.mark.parametrize("instrument", [httpx_hook.instrument, requests_hook.instrument])
def test_something_else_than_a_client_is_refused(instrument: Any) -> None:
    with pytest.raises(TypeError, match="int"):
        instrument(7)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://Host/x", ("host", 80)),
        ("https://host", ("host", 443)),
        ("https://host:8443/x", ("host", 8443)),
        ("http://[::1]:80/", ("::1", 80)),
        ("http://host./", ("host", 80)),
        ("http://user:pass@host/", ("host", 80)),
        ("ftp://host/", ("host", None)),
        ("/relative", None),
        ("http://host:99999/", None),
        ("http://[bad/", None),
        ("", None),
    ],
)
def test_a_url_names_its_target(url: str, target: Any) -> None:
    assert target_of_url(url) == target


@pytest.mark.parametrize(
    ("target", "hosts", "allowed"),
    [
        (("host", 80), ("host",), True),
        (("host", None), ("host",), True),
        (("host", None), ("host:80",), False),
        (("::1", 80), ("::1",), True),
        (("::1", 80), ("[::1]:80",), True),
        (("::1", 81), ("[::1]:80",), False),
        (("a.b", 80), (".b",), True),
        (("b", 80), (".b",), False),
        (("ab", 80), (".b",), False),
        (("host", 80), (), False),
        (None, ("host",), False),
    ],
)
def test_a_target_is_allowed_by_exact_host_or_suffix_and_port(target: Any, hosts: Any, allowed: bool) -> None:
    assert is_allowed(target, hosts) is allowed


def test_attributes_of_a_queue_name_the_target_too() -> None:
    assert target_of_attributes({"messaging.url": "amqp://broker:5672/"}) == ("broker", 5672)
    assert target_of_attributes({"http.host": "host:81"}) == ("host", 81)
    assert target_of_attributes({"server.address": "/var/run/socket"}) == ("/var/run/socket", None)
