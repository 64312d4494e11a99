"""Beside opentelemetry-python-contrib's server instrumentations: one point a request, from either side, with its ID.

Needs opentelemetry-instrumentation-{asgi,wsgi,flask,fastapi,starlette}, which pin an older API and SDK.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from recorded import Recorded

import clew
from clew.integrations import asgi, wsgi
from clew.propagation.spans import RequestIdSpanProcessor

pytest.importorskip("opentelemetry.instrumentation.asgi", reason="opentelemetry-instrumentation-* is not installed")

from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability as Stability
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as ContribAsgi
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as ContribWsgi

STABLE = "http.server.request.duration"


class Contrib:
    """Providers for contrib, as `clew` would have built them, read in memory."""

    def __init__(self, sampler: Any) -> None:
        self.reader = InMemoryMetricReader()
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(RequestIdSpanProcessor())
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider(
            [self.reader], views=clew.views(), exemplar_filter=clew.exemplar_filter(), shutdown_on_exit=False
        )

    @property
    def providers(self) -> dict[str, Any]:
        return {"tracer_provider": self.tracers, "meter_provider": self.meters}

    def points(self, *names: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name in names
            for point in metric.data.data_points
        ]

    def server_spans(self) -> list[Any]:
        return [
            (span.attributes or {}).get("request_id")
            for span in self.exporter.get_finished_spans()
            if span.kind.name == "SERVER"
        ]


@pytest.fixture(params=["stable", "old", "both"])
def convention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    opt_in = {"stable": "http", "old": "", "both": "http/dup"}[request.param]
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
    monkeypatch.setattr(Stability, "_initialized", False)
    return str(request.param)


@pytest.fixture(params=["sampled", "unsampled"])
def contrib(request: pytest.FixtureRequest, recorded: Recorded, convention: str) -> Contrib:
    return Contrib(ALWAYS_ON if request.param == "sampled" else ALWAYS_OFF)


def ids(points: Iterable[Any]) -> set[Any]:
    return {exemplar.filtered_attributes.get("request_id") for point in points for exemplar in point.exemplars}


def expect_one_point_with(name: Any, recorded: Recorded, contrib: Contrib, convention: str) -> None:
    ours = recorded.points(STABLE)
    theirs = contrib.points(STABLE)
    assert [point.count for point in ours + theirs] == [1]
    assert bool(theirs) is (convention != "old")
    assert ids([*ours, *theirs, *contrib.points("http.server.duration")]) == {name}
    assert recorded.points("http.server.active_requests") == []  # contrib counts them in either convention
    assert [point.value for point in contrib.points("http.server.active_requests")] == [0]
    assert set(contrib.server_spans()) <= {name}


# ASGI


async def plain_asgi(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(clew.request_id()).encode()})


class Hop:
    """A middleware that runs what is inside in another task and passes its messages on, as BaseHTTPMiddleware does."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        messages: asyncio.Queue[Any] = asyncio.Queue()
        task = asyncio.create_task(self.app(scope, receive, messages.put))
        while not (task.done() and messages.empty()):
            await asyncio.sleep(0)
            while not messages.empty():
                await send(messages.get_nowait())
        await task


ASGI_STACKS: dict[str, Callable[[Contrib], Any]] = {
    "contrib outside": lambda contrib: ContribAsgi(asgi.RequestMiddleware(plain_asgi), **contrib.providers),
    "contrib inside": lambda contrib: asgi.RequestMiddleware(ContribAsgi(plain_asgi, **contrib.providers)),
    "contrib inside, in another task": lambda contrib: asgi.RequestMiddleware(
        Hop(ContribAsgi(plain_asgi, **contrib.providers))
    ),
}


def ask_asgi(app: Any, *headers: tuple[bytes, bytes], path: str = "/") -> tuple[str, dict[bytes, bytes]]:
    sent: list[Any] = []

    incoming = [{"type": "http.request", "body": b""}]

    async def receive() -> Any:
        if not incoming:
            await asyncio.sleep(60)
        return incoming.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "server": ("test", 80),
        "client": ("test", 1),
        "headers": [(b"host", b"test"), *headers],
    }
    contextvars.Context().run(asyncio.run, app(scope, receive, send))
    return sent[1]["body"].decode(), dict(sent[0]["headers"])


@pytest.mark.parametrize("stack", ASGI_STACKS)
@pytest.mark.parametrize("header", [((b"x-request-id", b"abc"),), ()])
def test_asgi(recorded: Recorded, contrib: Contrib, convention: str, stack: str, header: Any) -> None:
    name, headers = ask_asgi(ASGI_STACKS[stack](contrib), *header)
    assert headers[b"x-request-id"].decode() == name
    assert name == "abc" or not header
    expect_one_point_with(name, recorded, contrib, convention)


@pytest.mark.parametrize("stack", ["contrib outside", "contrib inside"])
def test_a_request_that_contrib_passes_by_is_measured_by_us(
    recorded: Recorded, contrib: Contrib, convention: str, stack: str
) -> None:
    excluding = {"excluded_urls": "health", **contrib.providers}
    app = (
        ContribAsgi(asgi.RequestMiddleware(plain_asgi), **excluding)
        if stack == "contrib outside"
        else asgi.RequestMiddleware(ContribAsgi(plain_asgi, **excluding))
    )
    name, _ = ask_asgi(app, path="/health")
    assert contrib.points(STABLE, "http.server.duration") == []
    assert ids(recorded.points(STABLE)) == {name}


@pytest.mark.parametrize("framework", ["fastapi", "starlette"])
@pytest.mark.parametrize("hops", [0, 1])
@pytest.mark.parametrize("where", ["added", "in front"])
@pytest.mark.parametrize("path", ["/health", "/items"])
def test_there_is_one_point_where_contrib_excludes_urls_and_tasks_begin_in_between(
    recorded: Recorded,
    contrib: Contrib,
    convention: str,
    framework: str,
    hops: int,
    where: str,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("fastapi")
    from fastapi import FastAPI
    from opentelemetry.instrumentation import starlette as contrib_starlette
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.util.http import parse_excluded_urls
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse

    async def answer(request: Any) -> Any:
        return PlainTextResponse(str(clew.request_id()))

    app: Any = FastAPI() if framework == "fastapi" else Starlette()
    for route in ("/health", "/items"):
        app.add_route(route, answer)
    if where == "added":
        app.add_middleware(asgi.RequestMiddleware)
    for _ in range(hops):
        app.add_middleware(Hop)
    if framework == "fastapi":
        FastAPIInstrumentor.instrument_app(app, excluded_urls="/health$", **contrib.providers)
    else:
        monkeypatch.setattr(contrib_starlette, "_excluded_urls", parse_excluded_urls("/health$"))
        contrib_starlette.StarletteInstrumentor.instrument_app(app, **contrib.providers)
    if where == "in front":
        app = asgi.RequestMiddleware(Hop(app))
    name, _ = ask_asgi(app, path=path)
    ours, theirs = recorded.points(STABLE), contrib.points(STABLE)
    assert [point.count for point in ours + theirs] == [1]
    assert bool(theirs) is (path == "/items" and convention != "old")
    assert ids(ours + theirs) == {name}
    active = recorded.points("http.server.active_requests") + contrib.points("http.server.active_requests")
    assert [point.value for point in active] == [0]


def test_an_id_that_ours_does_not_trust_is_not_on_contrib_s_exemplars(
    recorded: Recorded, contrib: Contrib, convention: str
) -> None:
    app = ContribAsgi(asgi.RequestMiddleware(plain_asgi, trust=False), **contrib.providers)
    name, _ = ask_asgi(app, (b"x-request-id", b"from-outside"))
    assert name != "from-outside"
    expect_one_point_with(name, recorded, contrib, convention)


# WSGI


def plain_wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [str(clew.request_id()).encode()]


def streaming_wsgi(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield str(clew.request_id()).encode()


WSGI_STACKS: dict[str, Callable[[Any, Contrib], Any]] = {
    "contrib outside": lambda app, contrib: ContribWsgi(wsgi.RequestMiddleware(app), **contrib.providers),
    "contrib inside": lambda app, contrib: wsgi.RequestMiddleware(ContribWsgi(app, **contrib.providers)),
}


def ask_wsgi(app: Any, header: str | None = None, path: str = "/") -> tuple[str, dict[str, str]]:
    environ: dict[str, Any] = {"SERVER_PROTOCOL": "HTTP/1.1", "PATH_INFO": path}
    setup_testing_defaults(environ)
    if header is not None:
        environ["HTTP_X_REQUEST_ID"] = header
    answered: list[Any] = []

    def serve() -> None:
        body = app(environ, lambda status, headers, *_: answered.append(dict(headers)))
        try:
            answered.append(b"".join(body).decode())
        finally:
            if hasattr(body, "close"):
                body.close()
        answered.append(clew.request_id())

    contextvars.Context().run(serve)
    headers, text, after = answered
    assert after is None
    return text, headers


@pytest.mark.parametrize("stack", WSGI_STACKS)
@pytest.mark.parametrize("app", [plain_wsgi, streaming_wsgi])
@pytest.mark.parametrize("header", ["abc", None])
def test_wsgi(recorded: Recorded, contrib: Contrib, convention: str, stack: str, app: Any, header: str | None) -> None:
    name, headers = ask_wsgi(WSGI_STACKS[stack](app, contrib), header)
    assert headers["X-Request-ID"] == name
    assert header in (None, name)
    expect_one_point_with(name, recorded, contrib, convention)


# frameworks


@pytest.mark.parametrize("order", ["contrib first", "ours first"])
@pytest.mark.parametrize("header", ["abc", None])
@pytest.mark.parametrize("path", ["/items/1", "/fails"])
def test_flask(
    recorded: Recorded, contrib: Contrib, convention: str, order: str, header: str | None, path: str
) -> None:
    flask = pytest.importorskip("flask")
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    from clew.integrations import flask as ours

    app = flask.Flask("shop")

    @app.get("/items/<int:item>")
    def item(item: int) -> str:
        return str(clew.request_id())

    @app.get("/fails")
    def fails() -> str:
        raise RuntimeError("it failed")

    instrumentor = FlaskInstrumentor()
    try:
        if order == "ours first":
            ours.instrument(app)
        instrumentor.instrument_app(app, **contrib.providers)
        if order == "contrib first":
            ours.instrument(app)
        text, headers = ask_wsgi(app, header, path)
    finally:
        instrumentor.uninstrument_app(app)
    name = headers["X-Request-ID"]
    assert path == "/fails" or text == name
    assert header in (None, name)
    expect_one_point_with(name, recorded, contrib, convention)
    (point,) = recorded.points(STABLE) + contrib.points(STABLE)
    assert point.attributes["http.route"] == {"/fails": "/fails", "/items/1": "/items/<int:item>"}[path]


@pytest.mark.parametrize("order", ["contrib first", "ours first"])
@pytest.mark.parametrize("header", ["abc", None])
@pytest.mark.parametrize("framework", ["fastapi", "starlette"])
def test_fastapi_and_starlette(
    recorded: Recorded, contrib: Contrib, convention: str, order: str, header: str | None, framework: str
) -> None:
    pytest.importorskip("fastapi")
    from fastapi import FastAPI
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.instrumentation.starlette import StarletteInstrumentor
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from clew.integrations import starlette as ours

    async def item(request: Any) -> Any:
        return PlainTextResponse(str(clew.request_id()))

    if framework == "fastapi":
        app: Any = FastAPI(telemetry={"meter_provider": contrib.meters, "tracer_provider": contrib.tracers})
        app.add_route("/items/{item}", item)
        instrument: Any = FastAPIInstrumentor.instrument_app
    else:
        app = Starlette(routes=[Route("/items/{item}", item)])
        instrument = StarletteInstrumentor.instrument_app
    if order == "ours first":
        ours.instrument(app)
    instrument(app, **contrib.providers)
    if order == "contrib first":
        ours.instrument(app)
    given = ((b"x-request-id", header.encode()),) if header else ()
    name, headers = ask_asgi(app, *given, path="/items/1")
    assert headers[b"x-request-id"].decode() == name
    assert header in (None, name)
    expect_one_point_with(name, recorded, contrib, convention)


@pytest.mark.parametrize("way", ["outside", "inside", "both"])
@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
@pytest.mark.parametrize("header", ["abc", None])
@pytest.mark.parametrize("where", ["/items/1", "/async/1", "/fails"])
def test_django(
    recorded: Recorded,
    contrib: Contrib,
    convention: str,
    way: str,
    interface: str,
    header: str | None,
    where: str,
) -> None:
    pytest.importorskip("opentelemetry.instrumentation.django")
    import importlib

    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], MIDDLEWARE=[], SECRET_KEY="tests", LOGGING_CONFIG=None)
        django.setup()

    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpResponse
    from django.test import override_settings
    from django.urls import path
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    ours = importlib.import_module("clew.integrations.django")

    def item(request: Any, pk: int) -> Any:
        return HttpResponse(str(clew.request_id()))

    async def async_item(request: Any, pk: int) -> Any:
        return HttpResponse(str(clew.request_id()))

    def fails(request: Any) -> Any:
        raise RuntimeError("the view failed")

    class Urls:
        urlpatterns = (path("items/<int:pk>", item), path("async/<int:pk>", async_item), path("fails", fails))

    middleware = [] if way == "outside" else ["clew.integrations.django.RequestMiddleware"]
    with override_settings(ROOT_URLCONF=Urls, MIDDLEWARE=middleware):
        instrumentor = DjangoInstrumentor()
        instrumentor.instrument(**contrib.providers)
        try:
            application: Any = WSGIHandler() if interface == "wsgi" else ASGIHandler()
            if way != "inside":
                application = ours.instrument(application)
            if interface == "wsgi":
                text, headers = ask_wsgi(application, header, where)
                name = headers["X-Request-ID"]
            else:
                given = ((b"x-request-id", header.encode()),) if header else ()
                text, raw = ask_asgi(application, *given, path=where)
                name = {key.lower(): value for key, value in raw.items()}[b"x-request-id"].decode()
        finally:
            instrumentor.uninstrument()
    assert where == "/fails" or text == name
    assert header in (None, name)
    expect_one_point_with(name, recorded, contrib, convention)
