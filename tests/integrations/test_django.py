"""Django projects, asked through their WSGI and ASGI applications."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import io
import logging
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from recorded import Recorded

import clew
from clew.integrations.logging import RequestIdFilter

pytest.importorskip("django")

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, Http404, HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import include, path, re_path

INSIDE = "clew.integrations.django.RequestMiddleware"


def item(request: Any, pk: int) -> HttpResponse:
    return HttpResponse(str(clew.request_id()))


async def async_item(request: Any, pk: int) -> HttpResponse:
    return HttpResponse(str(clew.request_id()))


def fails(request: Any) -> HttpResponse:
    raise RuntimeError("the view failed")


def missing(request: Any) -> HttpResponse:
    raise Http404


def stream(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(f"{clew.request_id()} " for _ in range(3))


async def async_stream(request: Any) -> StreamingHttpResponse:
    async def parts() -> Any:
        for _ in range(3):
            yield f"{clew.request_id()} "

    return StreamingHttpResponse(parts())


def file(request: Any) -> FileResponse:
    return FileResponse(io.BytesIO(b"content"))


urlpatterns = [
    path("shop/", include([path("items/<int:pk>/", item), path("async/<int:pk>/", async_item)])),
    re_path(r"^parts/(?P<pk>[0-9]+)$", item),
    path("fails", fails),
    path("missing", missing),
    path("stream", stream),
    path("async-stream", async_stream),
    path("file", file),
]

if not settings.configured:
    settings.configure(
        ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=[], SECRET_KEY="tests", LOGGING_CONFIG=None
    )
    django.setup()

integration = importlib.import_module("clew.integrations.django")


@pytest.fixture(autouse=True)
def these_views() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


def ask_wsgi(application: Any, where: str, header: str | None = None) -> tuple[int, dict[str, str], str]:
    environ: dict[str, Any] = {"PATH_INFO": where, "SERVER_PROTOCOL": "HTTP/1.1"}
    setup_testing_defaults(environ)
    if header is not None:
        environ["HTTP_X_REQUEST_ID"] = header
    answered: list[Any] = []

    def serve() -> str:
        body = application(environ, lambda status, headers, *_: answered.append((int(status[:3]), dict(headers))))
        try:
            return b"".join(body).decode()
        finally:
            body.close()
            answered.append(clew.request_id())

    text = contextvars.Context().run(serve)
    assert answered[1] is None
    return (*answered[0], text)


def ask_asgi(application: Any, where: str, header: str | None = None) -> tuple[int, dict[str, str], str]:
    sent: list[Any] = []
    incoming = [{"type": "http.request", "body": b""}]

    async def receive() -> Any:
        if incoming:
            return incoming.pop()
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": where,
        "query_string": b"",
        "headers": [(b"host", b"test"), *([(b"x-request-id", header.encode())] if header is not None else [])],
    }
    contextvars.Context().run(asyncio.run, application(scope, receive, send))
    headers = {name.decode().title(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]).decode()


def wsgi_handler(middleware: list[str]) -> WSGIHandler:
    with override_settings(MIDDLEWARE=middleware):
        return WSGIHandler()


def asgi_handler(middleware: list[str]) -> ASGIHandler:
    with override_settings(MIDDLEWARE=middleware):
        return ASGIHandler()


WAYS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "wsgi, outside": lambda: (ask_wsgi, integration.instrument(wsgi_handler([]))),
    "wsgi, inside": lambda: (ask_wsgi, wsgi_handler([INSIDE])),
    "wsgi, both": lambda: (ask_wsgi, integration.instrument(wsgi_handler([INSIDE]))),
    "asgi, outside": lambda: (ask_asgi, integration.instrument(asgi_handler([]))),
    "asgi, inside": lambda: (ask_asgi, asgi_handler([INSIDE])),
    "asgi, both": lambda: (ask_asgi, integration.instrument(asgi_handler([INSIDE]))),
}


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest) -> Callable[..., tuple[int, dict[str, str], str]]:
    asking, application = WAYS[request.param]()
    return lambda *arguments: asking(application, *arguments)


@pytest.mark.parametrize("where", ["/shop/items/1/", "/shop/async/1/"])
def test_views_see_the_id_and_the_response_carries_it(ask: Any, where: str) -> None:
    status, headers, text = ask(where, "abc")
    assert (status, echoed(headers), text) == (200, "abc", "abc")


def echoed(headers: dict[str, str]) -> str | None:
    return {name.lower(): value for name, value in headers.items()}.get("x-request-id")


@pytest.mark.parametrize(("where", "status"), [("/fails", 500), ("/missing", 404), ("/nowhere", 404)])
def test_answers_to_exceptions_carry_the_id(ask: Any, where: str, status: int) -> None:
    found, headers, _ = ask(where, "abc")
    assert (found, echoed(headers)) == (status, "abc")


def test_a_request_without_an_id_gets_one(ask: Any) -> None:
    _, headers, text = ask("/shop/items/1/")
    assert text == echoed(headers)


@pytest.mark.parametrize("where", ["/stream", "/async-stream"])
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_a_stream_is_made_inside_the_request(ask: Any, where: str, recorded: Recorded) -> None:
    _, _, text = ask(where, "abc")
    assert text == "abc abc abc "
    (point,) = recorded.points("http.server.request.duration")
    assert [exemplar.filtered_attributes["request_id"] for exemplar in point.exemplars] == ["abc"]


def test_a_file_arrives_whole(ask: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        assert ask("/file", "abc")[2] == "content"


def test_the_record_of_a_failure_carries_the_id(ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(RequestIdFilter())
    try:
        ask("/fails", "abc")
    finally:
        caplog.handler.filters.clear()
    (found,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert found.request_id == "abc"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("where", "route", "status"),
    [
        ("/shop/items/7/", "/shop/items/<int:pk>/", 200),
        ("/parts/7", "/parts/(?P<pk>[0-9]+)$", 200),
        ("/fails", "/fails", 500),
        ("/nowhere", None, 404),
    ],
)
def test_each_request_is_one_point_with_its_route(
    ask: Any, recorded: Recorded, where: str, route: str | None, status: int
) -> None:
    ask(where, "abc")
    (point,) = recorded.points("http.server.request.duration")
    assert point.count == 1
    assert point.attributes.get("http.route") == route
    assert point.attributes["http.response.status_code"] == status
    assert point.attributes.get("error.type") == ("500" if status == 500 else None)
    assert [exemplar.filtered_attributes["request_id"] for exemplar in point.exemplars] == ["abc"]
    assert [point.value for point in recorded.points("http.server.active_requests")] == [0]


def test_the_setting_takes_the_keywords() -> None:
    options = {
        "headers": ["X-Correlation-ID"],
        "trust": False,
        "echo": "X-Echo",
        "expose": True,
        "ignore": ["/parts/7"],
    }
    with override_settings(CLEW_REQUEST=options):
        application = wsgi_handler([INSIDE])
    _, headers, text = ask_wsgi(application, "/shop/items/1/", "abc")
    assert headers["X-Echo"] == text != "abc"
    assert headers["Access-Control-Expose-Headers"] == "X-Echo"
    assert ask_wsgi(application, "/parts/7")[2] == "None"


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("way", ["outside", "inside", "both"])
@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
@pytest.mark.parametrize("where", ["/shop/items/1/", "/fails"])
def test_the_echo_is_in_the_header_that_the_id_came_in(interface: str, way: str, is_first: bool, where: str) -> None:
    headers = ["X-Request-ID", "X-Other"] if is_first else ["X-Other", "X-Request-ID"]
    ask, handler = (ask_wsgi, wsgi_handler) if interface == "wsgi" else (ask_asgi, asgi_handler)
    with override_settings(CLEW_REQUEST={"headers": headers}):
        application: Any = handler([] if way == "outside" else [INSIDE])
        if way != "inside":
            application = integration.instrument(application, headers=headers)
    answered = {name.lower(): value for name, value in ask(application, where, "abc")[1].items()}
    assert answered["x-request-id"] == "abc"
    assert "x-other" not in answered


@pytest.mark.parametrize("options", [{"header": "X"}, {"headers": []}, {"metrics": "on"}, ["headers"]])
def test_a_wrong_setting_is_refused_with_words(options: Any) -> None:
    with override_settings(CLEW_REQUEST=options), pytest.raises((TypeError, ValueError), match="CLEW_REQUEST"):
        wsgi_handler([INSIDE])


def test_something_else_than_an_application_is_refused() -> None:
    with pytest.raises(TypeError, match="int"):
        integration.instrument(7)
