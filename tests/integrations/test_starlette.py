"""Starlette and FastAPI applications, each asked through a real uvicorn or in-process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from recorded import Recorded
from serving import Address, wait_until
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

import clew
from clew.integrations import fastapi, starlette
from clew.integrations.asgi import RequestMiddleware
from clew.integrations.logging import RequestIdFilter
from clew.propagation.spans import RequestIdSpanProcessor

HAS_TELEMETRY = hasattr(FastAPI(), "_native_telemetry")
QUIET: dict[str, Any] = {"telemetry": {"metrics": False, "tracing": False, "logs": False}} if HAS_TELEMETRY else {}


def get(app: Any, path: str, **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return asyncio.run(ask())


def tell(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(clew.request_id()))


async def fail(request: Request) -> PlainTextResponse:
    raise RuntimeError("the handler failed")


def test_instrumenting_returns_the_application_and_binds_the_id() -> None:
    app = Starlette(routes=[Route("/", tell)])
    assert starlette.instrument(app) is app
    response = get(app, "/", x_request_id="abc")
    assert response.text == "abc"
    assert response.headers["x-request-id"] == "abc"


def test_the_answer_to_an_unhandled_exception_carries_the_id() -> None:
    for app in (starlette.instrument(Starlette(routes=[Route("/", fail)])), fastapi.instrument(failing_fastapi())):
        response = get(app, "/", x_request_id="abc")
        assert response.status_code == 500
        assert response.headers["x-request-id"] == "abc"


def failing_fastapi() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    def failing() -> None:
        raise RuntimeError("the handler failed")

    return app


def test_an_application_that_has_started_can_be_instrumented_and_uninstrumented() -> None:
    app = Starlette(routes=[Route("/", tell)])
    assert "x-request-id" not in get(app, "/").headers
    starlette.instrument(app)
    assert "x-request-id" in get(app, "/").headers
    starlette.uninstrument(app)
    assert "x-request-id" not in get(app, "/").headers


def test_only_the_application_that_was_named_is_instrumented() -> None:
    starlette.instrument(Starlette(routes=[Route("/", tell)]))
    assert get(Starlette(routes=[Route("/", tell)]), "/").text == "None"


def test_instrumenting_twice_or_something_else_is_refused() -> None:
    app = starlette.instrument(Starlette())
    with pytest.raises(ValueError, match="instrumented already"):
        starlette.instrument(app)
    with pytest.raises(TypeError, match="Router"):
        starlette.instrument(Router())  # type: ignore[type-var]


def test_the_middleware_can_be_added_as_any() -> None:
    app = Starlette(routes=[Route("/", tell)], middleware=[Middleware(RequestMiddleware, echo="X-Echo")])
    assert get(app, "/", x_request_id="abc").headers["x-echo"] == "abc"


def test_a_middleware_that_runs_the_application_in_another_task_keeps_the_id() -> None:
    class Other(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            return await call_next(request)

    app = starlette.instrument(Starlette(routes=[Route("/", tell)], middleware=[Middleware(Other)]))
    assert get(app, "/", x_request_id="abc").text == "abc"


def test_streaming_and_background_work_are_in_the_request(asgi_server: Callable[..., Address]) -> None:
    after: list[str | None] = []

    async def stream(request: Request) -> StreamingResponse:
        async def parts() -> Any:
            for _ in range(3):
                yield str(clew.request_id())
                await asyncio.sleep(0)

        return StreamingResponse(parts(), background=BackgroundTask(lambda: after.append(clew.request_id())))

    app = starlette.instrument(Starlette(routes=[Route("/", stream)]))
    assert asgi_server(app).get("/", ("X-Request-ID", "abc")).body.count(b"abc") == 3
    wait_until(lambda: after, "the background task has not run")
    assert after == ["abc"]


def test_background_tasks_and_dependencies_of_fastapi_are_in_the_request() -> None:
    seen: list[str | None] = []
    app = FastAPI()

    @app.get("/")
    def handler(tasks: BackgroundTasks) -> str | None:
        tasks.add_task(lambda: seen.append(clew.request_id()))
        return clew.request_id()

    fastapi.instrument(app)
    assert get(app, "/", x_request_id="abc").json() == "abc"
    assert seen == ["abc"]


def test_the_lifespan_is_no_request(asgi_server: Callable[..., Address]) -> None:
    seen: list[str | None] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        seen.append(clew.request_id())
        yield

    app = starlette.instrument(Starlette(routes=[Route("/", tell)], lifespan=lifespan))
    assert asgi_server(app, lifespan="on").get("/", ("X-Request-ID", "abc")).body == b"abc"
    assert seen == [None]


def test_a_websocket_is_one_request() -> None:
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(f"{await websocket.receive_text()} {clew.request_id()}")
        await websocket.close()

    app = starlette.instrument(Starlette(routes=[WebSocketRoute("/ws", socket)]))
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/ws", "query_string": b"", "headers": [(b"x-request-id", b"abc")]}
    asyncio.run(app(scope, receive, send))
    assert (b"x-request-id", b"abc") in sent[0]["headers"]
    assert sent[1]["text"] == "hello abc"


def test_what_the_server_logs_about_a_failed_request_has_its_id(
    asgi_server: Callable[..., Address], caplog: pytest.LogCaptureFixture
) -> None:
    app = starlette.instrument(Starlette(routes=[Route("/", fail)]))
    address = asgi_server(app, log_level="error", log_config=None)
    caplog.handler.addFilter(RequestIdFilter())
    try:
        assert address.get("/", ("X-Request-ID", "abc")).status == 500
        wait_until(lambda: "uvicorn.error" in [record.name for record in caplog.records], "uvicorn has logged nothing")
    finally:
        caplog.handler.filters.clear()
    (found,) = [record for record in caplog.records if record.name == "uvicorn.error"]
    assert found.exc_info
    assert found.request_id == "abc"  # type: ignore[attr-defined]


# routes


def included() -> FastAPI:
    app = FastAPI(**QUIET)
    orders, parts, sub = APIRouter(prefix="/orders"), APIRouter(prefix="/parts"), FastAPI(**QUIET)

    @orders.get("/{order}")
    def order(order: int) -> int:
        return order

    @parts.get("/{part}")
    def part(part: str) -> str:
        return part

    @sub.get("/items/{item}")
    def item(item: str) -> str:
        return item

    orders.include_router(parts)
    app.include_router(orders, prefix="/v1")
    app.mount("/tenants/{tenant}", sub)
    return app


ROUTES = Starlette(
    routes=[
        Route("/orders/{order:int}", tell),
        Mount("/shops/{shop}", routes=[Route("/carts/{cart}", tell), Mount("/deep", routes=[Route("/{x}", tell)])]),
        Mount("/api", included()),
        Mount("/static", StaticFiles(packages=[("clew", ".")])),
        Host("other", Router([Route("/hosted/{x}", tell)])),
    ]
)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/orders/17", "/orders/{order}"),
        ("/shops/7f3a/carts/9", "/shops/{shop}/carts/{cart}"),
        ("/shops/7f3a/deep/9", "/shops/{shop}/deep/{x}"),
        ("/api/v1/orders/3", "/api/v1/orders/{order}"),
        ("/api/v1/orders/parts/p", "/api/v1/orders/parts/{part}"),
        ("/api/tenants/7f3a/items/9", "/api/tenants/{tenant}/items/{item}"),
        ("/static/py.typed", "/static/{path}"),
        ("/nothing/here", None),
        ("/shops/7f3a/nothing", None),
        ("/api/nothing", None),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/behind/proxy"])
def test_the_route_is_made_of_templates_and_never_of_the_path(
    recorded: Recorded, path: str, route: str | None, root_path: str
) -> None:
    async def ask() -> None:
        transport = httpx.ASGITransport(RequestMiddleware(ROUTES), root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.get(root_path + path)

    asyncio.run(ask())
    (point,) = recorded.points("http.server.request.duration")
    assert point.attributes.get("http.route") == route


def mounting() -> FastAPI:
    """FastAPI that mounts all kinds of things directly, under a parameter and at its root too."""
    app, inner = FastAPI(**QUIET), included()
    app.mount("/static", StaticFiles(packages=[("clew", ".")]))
    app.mount("/cls/{tenant}", tell_scope)
    app.router.routes.append(Mount("/list/{shop}", routes=[Route("/r/{x}", tell)]))
    inner.mount("/files", StaticFiles(packages=[("clew", ".")]))
    app.mount("/sub/{tenant}", inner)
    app.mount("/", Starlette(routes=[Route("/root/{x}", tell), Mount("/deep/{y}", routes=[Route("/{z}", tell)])]))
    return app


async def tell_scope(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("told")(scope, receive, send)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/static/py.typed", "/static/{path}"),
        ("/static/none", "/static/{path}"),
        ("/cls/7/a/b", "/cls/{tenant}/{path}"),
        ("/list/7/r/8", "/list/{shop}/r/{x}"),
        ("/sub/7/v1/orders/3", "/sub/{tenant}/v1/orders/{order}"),
        ("/sub/7/files/py.typed", "/sub/{tenant}/files/{path}"),
        ("/root/7", "/root/{x}"),
        ("/deep/7/8", "/deep/{y}/{z}"),
        ("/sub/7/nothing", None),
        ("/nothing", None),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/behind/proxy"])
@pytest.mark.parametrize("around", ["nothing", "a mount at the root", "two"])
def test_what_fastapi_mounts_has_the_templates_of_its_mounts(
    recorded: Recorded, path: str, route: str | None, root_path: str, around: str
) -> None:
    app = mounting()
    for _ in range(["nothing", "a mount at the root", "two"].index(around)):
        outer = FastAPI(**QUIET)
        outer.mount("/", app)
        app = outer
    fastapi.instrument(app)

    async def ask() -> None:
        transport = httpx.ASGITransport(app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.get(root_path + path)

    asyncio.run(ask())
    (point,) = recorded.points("http.server.request.duration")
    assert point.attributes.get("http.route") == route


@pytest.mark.skipif(not HAS_TELEMETRY, reason="this FastAPI does not take over what an included router mounts")
@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/1/static/2/py.typed", "/v1/{v}/static/{t}/{path}"),
        ("/v1/1/mounted/2/r/3", "/v1/{v}/mounted/{m}/r/{x}"),
        ("/v1/1/mounted/2/none", None),
        ("/v1/1/two/2/static/py.typed", "/v1/{v}/two/{x}/static/{path}"),
        ("/v1/1/two/2/sub/orders/3", "/v1/{v}/two/{x}/sub/orders/{order}"),
        ("/v1/1/two/2/plain/3", "/v1/{v}/two/{x}/plain/{p}"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/outer/{o}"])
def test_what_an_included_router_mounts_has_its_prefixes_in_front(
    recorded: Recorded, path: str, route: str | None, prefix: str
) -> None:
    sub, first, second, app = FastAPI(**QUIET), APIRouter(), APIRouter(), FastAPI(**QUIET)

    @sub.get("/orders/{order}")
    def order(order: str) -> str:
        return order

    second.mount("/static", StaticFiles(packages=[("clew", ".")]))
    second.mount("/sub", sub)
    second.add_route("/plain/{p}", tell)
    first.mount("/static/{t}", StaticFiles(packages=[("clew", ".")]))
    first.mount("/mounted/{m}", Starlette(routes=[Route("/r/{x}", tell)]))
    first.include_router(second, prefix="/two/{x}")
    app.include_router(first, prefix="/v1/{v}")
    if prefix:
        outer = FastAPI(**QUIET)
        outer.mount(prefix, app)
        app = outer
    get(fastapi.instrument(app), prefix.replace("{o}", "9") + path)
    (point,) = recorded.points("http.server.request.duration")
    assert point.attributes.get("http.route") == (None if route is None else prefix + route)


def test_the_route_behind_a_host_is_found(recorded: Recorded) -> None:
    get(RequestMiddleware(ROUTES), "http://other/hosted/1")
    (point,) = recorded.points("http.server.request.duration")
    assert point.attributes["http.route"] == "/hosted/{x}"


# FastAPI measures itself


class Native:
    """FastAPI with providers of its own to record into."""

    def __init__(self, **config: Any) -> None:
        self.reader = InMemoryMetricReader()
        self.spans = InMemorySpanExporter()
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(RequestIdSpanProcessor())
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        meters = MeterProvider(
            [self.reader], views=clew.views(), exemplar_filter=clew.exemplar_filter(), shutdown_on_exit=False
        )
        self.app = FastAPI(telemetry={"meter_provider": meters, "tracer_provider": tracers, "logs": False, **config})

        @self.app.get("/items/{item}")
        def item(item: str) -> str | None:
            return clew.request_id()

    def points(self) -> list[Any]:
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "http.server.request.duration"
            for point in metric.data.data_points
        ]


native = pytest.mark.skipif(not HAS_TELEMETRY, reason="this FastAPI does not measure itself")


@native
@pytest.mark.parametrize("header", [{"x_request_id": "abc"}, {}])
@pytest.mark.parametrize("how", ["instrument", "outside", "add_middleware"])
def test_fastapi_s_own_point_is_the_only_one_and_its_exemplar_and_spans_carry_the_id(
    recorded: Recorded, header: dict[str, str], how: str
) -> None:
    measured = Native()
    app: Any = measured.app
    if how == "instrument":
        fastapi.instrument(app)
    elif how == "outside":
        app = RequestMiddleware(app)
    else:
        app.add_middleware(RequestMiddleware)
    response = get(app, "/items/1", **header)
    name = response.headers["x-request-id"]
    assert response.json() == name
    (point,) = measured.points()
    assert point.count == 1
    assert [exemplar.filtered_attributes["request_id"] for exemplar in point.exemplars] == [name]
    assert {(span.attributes or {}).get("request_id") for span in measured.spans.get_finished_spans()} == {name}
    assert recorded.points("http.server.request.duration") == []
    assert recorded.points("http.server.active_requests") == []


@native
@pytest.mark.parametrize("config", [{"metrics": False}, {"exclude": lambda scope: True}])
def test_where_fastapi_does_not_measure_a_request_ours_does(recorded: Recorded, config: dict[str, Any]) -> None:
    measured = Native(**config)
    get(fastapi.instrument(measured.app), "/items/1")
    assert measured.points() == []
    assert [point.count for point in recorded.points("http.server.request.duration")] == [1]


@native
@pytest.mark.parametrize("path", ["/items/1", "/health"])
@pytest.mark.parametrize("hops", [0, 1, 2])
@pytest.mark.parametrize("how", ["add_middleware", "outside", "outside, in another task"])
def test_where_fastapi_excludes_a_request_ours_measures_it_from_wherever_it_stands(
    recorded: Recorded, path: str, hops: int, how: str
) -> None:
    measured = Native(exclude=lambda scope: scope["path"] == "/health")
    app: Any = measured.app

    @app.get("/health")
    def health() -> str:
        return "well"

    if how == "add_middleware":
        app.add_middleware(RequestMiddleware)
    for _ in range(hops):
        app.add_middleware(_Outside)
    if how == "outside":
        app = RequestMiddleware(app)
    elif how != "add_middleware":
        app = RequestMiddleware(_Outside(app))
    get(app, path)
    is_ours = path == "/health"
    assert [point.count for point in measured.points()] == [1] * (not is_ours)
    assert [point.count for point in recorded.points("http.server.request.duration")] == [1] * is_ours


@native
def test_a_fastapi_that_is_mounted_measures_itself_and_its_neighbour_is_measured_by_us(recorded: Recorded) -> None:
    measured = Native()
    app = Starlette(routes=[Route("/plain", tell), Mount("/api", measured.app)])
    starlette.instrument(app)
    get(app, "/api/items/1")
    assert [point.count for point in measured.points()] == [1]
    assert recorded.points("http.server.request.duration") == []
    get(app, "/plain")
    assert [point.count for point in measured.points()] == [1]
    assert [point.count for point in recorded.points("http.server.request.duration")] == [1]


@native
def test_ours_is_recorded_as_well_when_asked_for(recorded: Recorded) -> None:
    measured = Native()
    get(fastapi.instrument(measured.app, metrics=True), "/items/1")
    assert len(measured.points()) == 1
    assert [point.attributes["http.route"] for point in recorded.points("http.server.request.duration")] == [
        "/items/{item}"
    ]


@native
def test_an_id_that_comes_in_is_not_mistaken_for_the_one_of_a_call_inside(recorded: Recorded) -> None:
    inner = fastapi.instrument(Native().app)
    outer = FastAPI(**QUIET)

    @outer.get("/")
    async def call() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(inner), base_url="http://inner") as client:
            response = await client.get("/items/1", headers={"X-Request-ID": "inner"})
        return JSONResponse([response.json(), clew.request_id()])

    assert get(fastapi.instrument(outer), "/", x_request_id="outer").json() == ["inner", "outer"]


class _Outside(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Any:
        return await call_next(request)


@pytest.mark.skipif(not HAS_TELEMETRY, reason="this FastAPI does not measure itself")
@pytest.mark.parametrize("outside", [0, 1, 2])
@pytest.mark.parametrize("inside", [0, 1])
def test_one_point_a_request_where_tasks_begin_around_the_middleware(
    outside: int, inside: int, recorded: Recorded
) -> None:
    app = FastAPI(telemetry={"metrics": True, "meter_provider": recorded.telemetry.meter_provider})  # type: ignore[call-arg, typeddict-item, unused-ignore]
    for _ in range(inside):
        app.add_middleware(_Outside)
    app.add_middleware(RequestMiddleware)
    for _ in range(outside):
        app.add_middleware(_Outside)

    @app.get("/orders/{number}")
    def show(number: str) -> str:
        return number

    assert get(app, "/orders/7").status_code == 200
    assert sum(point.count for point in recorded.points("http.server.request.duration")) == 1
    assert len(recorded.points("http.server.active_requests")) == 1


def test_routes_that_are_no_path_operations_are_named_too(recorded: Recorded, tmp_path: Any) -> None:
    (tmp_path / "page.txt").write_text("text")
    inner, router = FastAPI(**QUIET), APIRouter()
    app = FastAPI(**QUIET)
    app.add_route("/health", tell)
    app.router.routes.append(Route("/plain/{word}", tell))
    app.mount("/static", StaticFiles(directory=tmp_path))
    inner.add_route("/{word}/deep", tell)
    app.mount("/sub/{tenant}", inner)
    router.add_route("/listed/{word}", tell)
    app.include_router(router, prefix="/under")
    fastapi.instrument(app)
    expected = {
        "/health": "/health",
        "/plain/1": "/plain/{word}",
        "/static/page.txt": "/static/{path}",
        "/docs": "/docs",
        "/openapi.json": "/openapi.json",
        "/sub/9/1/deep": "/sub/{tenant}/{word}/deep",
        "/sub/9/docs": "/sub/{tenant}/docs",
        "/under/listed/1": "/under/listed/{word}",
        "/nowhere": None,
    }
    for path in expected:
        get(app, path)
    routes = [point.attributes.get("http.route") for point in recorded.points("http.server.request.duration")]
    assert sorted(routes, key=str) == sorted(expected.values(), key=str)


def test_the_canonical_line_of_an_exception_that_is_an_answer_says_its_status(
    configured: Callable[..., Recorded], log_records: Any
) -> None:
    configured(log_processors=[log_records.processor], logs_canonical=True)
    app = FastAPI(**QUIET)

    class TooBusyError(Exception):
        pass

    @app.get("/refuses")
    async def refuse() -> None:
        raise HTTPException(503)

    @app.get("/busy")
    async def busy() -> None:
        raise TooBusyError

    @app.exception_handler(TooBusyError)
    async def answer(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("busy", 503)

    @app.get("/fails")
    async def broken() -> None:
        raise RuntimeError

    fastapi.instrument(app)
    for path in ("/refuses", "/busy", "/fails"):
        get(app, path)
    lines = [record.attributes for record in log_records.all() if "request.outcome" in record.attributes]
    assert [line["error.type"] for line in lines] == ["503", "503", "RuntimeError"]
    assert not [name for line in lines for name in line if name.startswith("code.")]
