"""The request ID as an entry of W3C Baggage: out by the propagator and our clients, in where the header is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage as otel_baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from recorded import Recorded
from serving import Address

import clew
from clew.integrations import httpx as httpx_hook
from clew.integrations.asgi import RequestMiddleware
from clew.integrations.wsgi import RequestMiddleware as WsgiMiddleware
from clew.policy import policy
from clew.propagation.cell import request_id_in
from clew.propagation.ids import is_valid
from clew.propagation.propagator import RequestIdPropagator

PROPAGATORS = CompositePropagator([W3CBaggagePropagator(), RequestIdPropagator()])
VALID = st.text("ABCxyz019._:/+=@~|-", min_size=1, max_size=118)


@pytest.fixture(autouse=True)
def switched_on(own_policy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "baggage", True)


def extracted(*headers: str, **others: str) -> str | None:
    carrier: dict[str, Any] = {"baggage": list(headers), **others}
    return request_id_in(RequestIdPropagator().extract(carrier, Context()))


@given(VALID)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_id_comes_out_of_baggage_as_it_went_in(name: str) -> None:
    carrier: dict[str, Any] = {}
    with clew.request(name):
        RequestIdPropagator().inject(carrier)
    assert carrier["X-Request-ID"] == name
    assert extracted(carrier["baggage"]) == name
    found = W3CBaggagePropagator().extract({"baggage": [carrier["baggage"]]}, Context())
    assert otel_baggage.get_all(found) == {"request_id": name}  # others read it in the same way


def test_entries_of_others_stay_and_another_id_is_replaced() -> None:
    carrier: dict[str, Any] = {}
    context = otel_baggage.set_baggage("tier", "gold & silver", Context())
    context = otel_baggage.set_baggage("request_id", "from outside", context)
    with clew.request("r-17"):
        current = RequestIdPropagator().extract({"X-Request-ID": "r-17"}, context)
        PROPAGATORS.inject(carrier, current)
    assert carrier["baggage"] == "tier=gold+%26+silver,request_id=r-17"


def test_the_header_counts_before_the_baggage() -> None:
    assert extracted("request_id=by-baggage", **{"x-request-id": "by-header"}) == "by-header"
    assert extracted("request_id=by-baggage", **{"x-request-id": "no id"}) is None
    assert extracted("request_id=by-baggage") == "by-baggage"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["a=1, request_id = r-1 ;p=2, b=2"], "r-1"),
        (["a=1", "request_id=r-2"], "r-2"),
        (["request_id=first,request_id=second"], "first"),
        (["request%5Fid=r%2D3"], "r-3"),
        (["request_id"], None),
        (["request_id="], None),
        (["Request_Id=r-4"], None),
        (["x_request_id=r-5"], None),
        (["request_id=a%0d%0ab"], None),
        (["request_id=%ff"], None),
        (["a=1," * 3000 + "request_id=r-6"], None),
    ],
)
def test_an_entry_is_read_by_the_recommendation(headers: list[str], expected: str | None) -> None:
    assert extracted(*headers) == expected


@given(st.lists(st.text(max_size=200) | st.text("request_id=,;% \t\x00\r\nab", max_size=60), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_baggage_comes_in_only_a_valid_id_is_bound(headers: list[str]) -> None:
    name = extracted(*headers)
    assert name is None or is_valid(name)


@given(st.text(max_size=300) | st.text("request_id=,;% ab", max_size=80))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_baggage_goes_out_there_is_one_entry_of_ours(text: str) -> None:
    carrier: dict[str, Any] = {"Baggage": text}
    with clew.request("r-17"):
        RequestIdPropagator().inject(carrier)
    assert set(carrier) == {"Baggage", "X-Request-ID"}
    assert extracted(carrier["Baggage"]) == "r-17"
    assert carrier["Baggage"].count("request_id=r-17") >= 1


@pytest.mark.parametrize("full", ["a=1," * 63 + "a=1", "a=" + "x" * 8_180])
def test_baggage_that_is_full_goes_out_as_it_is_and_that_is_logged_once(
    full: str, recorded: Recorded, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "baggage", True)
    before = recorded.events().get("request_id.not_in_baggage", 0)
    for _ in range(2):
        carrier: dict[str, Any] = {"baggage": full}
        with clew.request("r-17"):
            RequestIdPropagator().inject(carrier)
        assert carrier == {"baggage": full, "X-Request-ID": "r-17"}
    assert recorded.events()["request_id.not_in_baggage"] - before == 2
    assert sum("without the request ID in its baggage" in record.getMessage() for record in caplog.records) == 1


def test_without_trust_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "trust", False)
    assert extracted("request_id=r-1") is None


def test_switched_off_it_is_neither_written_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "baggage", False)
    carrier: dict[str, Any] = {}
    with clew.request("r-17"):
        RequestIdPropagator().inject(carrier)
    assert carrier == {"X-Request-ID": "r-17"}
    assert extracted("request_id=r-1") is None


def test_the_key_is_the_configured_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "attribute", "correlation.id")
    carrier: dict[str, Any] = {}
    with clew.request("r-17"):
        RequestIdPropagator().inject(carrier)
    assert carrier["baggage"] == "correlation.id=r-17"
    assert extracted("request_id=r-1,correlation.id=r-2") == "r-2"


class ListOfPairs:
    """Writes headers as queues have them: a list of pairs."""

    def set(self, carrier: list[tuple[str, str]], key: str, value: str) -> None:
        carrier.append((key, value))


def test_a_carrier_that_cannot_be_read_gets_a_header_of_its_own() -> None:
    carrier = [("baggage", "a=1")]
    with clew.request("r-17"):
        RequestIdPropagator().inject(carrier, setter=ListOfPairs())  # type: ignore[arg-type]
    assert carrier == [("baggage", "a=1"), ("X-Request-ID", "r-17"), ("baggage", "request_id=r-17")]


class Typed:
    """Writes values as SQS has them."""

    def set(self, carrier: dict[str, Any], key: str, value: str) -> None:
        carrier[key] = {"StringValue": value}


def test_values_are_written_by_the_setter() -> None:
    carrier: dict[str, Any] = {}
    with clew.request("r-17"):
        RequestIdPropagator().inject(carrier, setter=Typed())  # type: ignore[arg-type]
    assert carrier["baggage"] == {"StringValue": "request_id=r-17"}


# the allow list


@pytest.mark.parametrize("given", ["", "a=1"])
def test_clients_send_it_to_hosts_that_may_have_it_on_every_hop(
    given: str, wsgi_server: Callable[[Any], Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[tuple[str, str | None]] = []

    def answer(environ: Any, start_response: Any) -> Iterable[bytes]:
        received.append((environ["HTTP_HOST"].split(":")[0], environ.get("HTTP_BAGGAGE")))
        target = environ["QUERY_STRING"]
        start_response("302 Found" if target else "200 OK", [("Location", target), ("Content-Length", "0")])
        return []

    port = wsgi_server(answer).port
    monkeypatch.setattr(policy, "hosts", ("127.0.0.1",))
    headers = {"baggage": given} if given else {}
    with httpx_hook.instrument(httpx.Client(follow_redirects=True)) as client, clew.request("r-17"):
        client.get(f"http://127.0.0.1:{port}/?http://localhost:{port}/", headers=headers)
    entry = "request_id=r-17"
    assert received == [("127.0.0.1", f"{given},{entry}" if given else entry), ("localhost", given or None)]


def test_the_propagator_takes_it_out_where_the_target_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "hosts", ("127.0.0.1",))
    carrier: dict[str, Any] = {"baggage": "a=1,request_id=r-17", "X-Request-ID": "r-17"}
    with clew.request("r-17"):
        RequestIdPropagator().inject(carrier)
    assert carrier == {"baggage": "a=1"}


# behind real servers


async def plain_asgi(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(clew.request_id()).encode()})


def plain_wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [str(clew.request_id()).encode()]


@pytest.fixture(params=["asgi", "wsgi"])
def serve(
    request: pytest.FixtureRequest, asgi_server: Callable[..., Address], wsgi_server: Callable[..., Address]
) -> Callable[..., Address]:
    if request.param == "asgi":
        return lambda **options: asgi_server(RequestMiddleware(plain_asgi, **options))
    return lambda **options: wsgi_server(WsgiMiddleware(plain_wsgi, **options))


def test_our_middlewares_accept_it_where_no_header_comes(serve: Callable[..., Address]) -> None:
    address = serve()
    assert address.get("/", ("baggage", "a=1,request_id=r-17;p")).one("x-request-id") == "r-17"
    assert address.get("/", ("baggage", "request_id=r-17"), ("X-Request-ID", "r-18")).one("x-request-id") == "r-18"
    for bad in ("request_id=no id", "request_id=%0d%0aSet-Cookie: x", "request_id=" + "x" * 500, "%%%,,;=\xff"):
        assert is_valid(address.get("/", ("baggage", bad)).one("x-request-id"))
        assert "no id" not in address.get("/", ("baggage", bad)).body.decode()


def test_the_callables_of_a_middleware_decide_about_it_too(serve: Callable[..., Address]) -> None:
    address = serve(validator=lambda text: text.startswith("r-"), transformer=lambda name: f"{name}.1")
    assert address.get("/", ("baggage", "request_id=r-17")).one("x-request-id") == "r-17.1"
    assert address.get("/", ("baggage", "request_id=s-17")).one("x-request-id") != "s-17.1"


def test_a_middleware_that_trusts_nobody_reads_none(serve: Callable[..., Address]) -> None:
    assert serve(trust=False).get("/", ("baggage", "request_id=r-17")).one("x-request-id") != "r-17"


def test_it_is_switched_on_by_a_setting(configured: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "baggage", False)
    monkeypatch.setenv("CLEW_REQUEST_ID_BAGGAGE", "true")
    configured()
    assert policy.baggage is True
