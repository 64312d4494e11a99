"""Beside opentelemetry-python-contrib's instrumentations of aiohttp's server and of gRPC.

Needs opentelemetry-instrumentation-{aiohttp-server,grpc}, which pin an older API and SDK.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import metrics, propagate, trace
from recorded import Recorded

import clew
from clew.policy import policy

pytest.importorskip("opentelemetry.instrumentation.aiohttp_server", reason="contrib is not installed")
pytest.importorskip("opentelemetry.instrumentation.grpc", reason="contrib is not installed")

import grpc
from aiohttp import ClientSession, web
from opentelemetry.instrumentation import aiohttp_server as contrib_aiohttp
from opentelemetry.instrumentation import grpc as contrib_grpc
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability as Stability

from clew.integrations import aiohttp
from clew.integrations import grpc as integration

STABLE = "http.server.request.duration"


@pytest.fixture(params=["http", "", "http/dup"])
def convention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, recorded: Recorded) -> Iterator[str]:
    """Contrib's middleware, made with the providers of this test, in one of its conventions."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", request.param)
    monkeypatch.setattr(Stability, "_initialized", False)
    monkeypatch.setattr(metrics, "get_meter", recorded.telemetry.meter_provider.get_meter)
    monkeypatch.setattr(trace, "get_tracer", recorded.telemetry.tracer_provider.get_tracer)
    for name in ("duration_histogram_old", "duration_histogram_new", "meter_old", "meter_new"):
        monkeypatch.setattr(contrib_aiohttp, name, None)
    monkeypatch.setenv("OTEL_PYTHON_AIOHTTP_SERVER_EXCLUDED_URLS", "excluded")
    instrumentor = contrib_aiohttp.AioHttpServerInstrumentor()
    instrumentor.instrument()
    yield request.param
    instrumentor.uninstrument()


async def tell(request: web.Request) -> web.Response:
    return web.Response(text=str(clew.request_id()))


def ask(app: Any, path: str, **headers: str) -> Any:
    async def run() -> Any:
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with ClientSession() as session, session.get(f"http://{host}:{port}{path}", headers=headers) as response:
            answer = await response.text(), response.headers["X-Request-ID"]
        await runner.cleanup()
        return answer

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["/orders/17", "/excluded"])
def test_aiohttp_has_one_duration_with_the_id_from_contrib_or_from_us(
    convention: str, recorded: Recorded, path: str
) -> None:
    app = web.Application()
    app.add_routes([web.get("/orders/{order}", tell), web.get("/excluded", tell)])
    body, echoed = ask(aiohttp.instrument(app), path)
    assert body == echoed
    (point,) = recorded.points(STABLE)
    assert point.count == 1
    assert point.exemplars[0].filtered_attributes["request_id"] == body
    (scope,) = {scope for scope, metric in recorded.metrics() if metric.name == STABLE}
    is_contrib = convention != "" and path != "/excluded"
    assert scope == ("opentelemetry.instrumentation.aiohttp_server" if is_contrib else "clew.integrations.aiohttp")
    assert {span.attributes["request_id"] for span in recorded.spans()} <= {body}
    assert len(recorded.points("http.server.active_requests")) == 1


@pytest.mark.parametrize("trusted", [True, False])
def test_grpc_servers_have_the_id_inside_and_on_the_span_of_contrib(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    monkeypatch.setattr(policy, "trust", trusted)
    contrib = contrib_grpc.server_interceptor(tracer_provider=recorded.telemetry.tracer_provider)
    server = grpc.server(ThreadPoolExecutor(1), interceptors=[contrib, integration.server_interceptor(), contrib])
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: str(clew.request_id()).encode())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Stock", {"Tell": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/shop.Stock/Tell")
            bodies = [
                call(b"", metadata=metadata, timeout=60).decode() for metadata in ((("x-request-id", "abc"),), ())
            ]
    finally:
        server.stop(1).wait(60)
    assert (bodies[0] == "abc") is trusted
    assert [span.attributes["request_id"] for span in recorded.spans()] == [bodies[0]] * 2 + [bodies[1]] * 2
    assert [point.count for point in recorded.points("rpc.server.call.duration")] == [2]


def test_contribs_grpc_client_sends_the_id_by_the_propagator(recorded: Recorded) -> None:
    assert "X-Request-ID" in propagate.get_global_textmap().fields
    received: list[Any] = []

    def answer(request: Any, context: Any) -> bytes:
        received.extend(value for key, value in context.invocation_metadata() if key == "x-request-id")
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Stock", {"Tell": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    contrib = contrib_grpc.client_interceptor(tracer_provider=recorded.telemetry.tracer_provider)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as plain, clew.request("abc"):
            for channel in (
                contrib_grpc.grpcext.intercept_channel(plain, contrib),
                contrib_grpc.grpcext.intercept_channel(integration.instrument(plain), contrib),
            ):
                channel.unary_unary("/shop.Stock/Tell")(b"", timeout=60)
    finally:
        server.stop(1).wait(60)
    assert received == ["abc", "abc"]
