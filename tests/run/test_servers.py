"""Real servers, started by `clew run` with applications that never import clew."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
from real_parts import Program, free_port, listens
from run.conftest import Endpoint
from serving import Address

WORK = """
def find(number):
    return number + 1
"""

APPLICATIONS = {
    "fastapi": """
        import logging
        from fastapi import FastAPI
        from shop import orders

        app = FastAPI()

        @app.get("/orders/{number}")
        def show(number):
            logging.getLogger("shop").warning("served")
            return orders.find(1)
    """,
    "starlette": """
        import logging
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        from shop import orders

        async def show(request):
            logging.getLogger("shop").warning("served")
            return PlainTextResponse(str(orders.find(1)))

        app = Starlette(routes=[Route("/orders/{number}", show)])
    """,
    "asgi": """
        import logging
        from shop import orders

        async def app(scope, receive, send):
            assert scope["type"] == "http"
            logging.getLogger("shop").warning("served")
            body = str(orders.find(1)).encode()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            await send({"type": "http.response.body", "body": body})
    """,
    "flask": """
        import logging
        from flask import Flask
        from shop import orders

        app = Flask(__name__)

        @app.get("/orders/<number>")
        def show(number):
            logging.getLogger("shop").warning("served")
            return str(orders.find(1))
    """,
    "django": """
        import logging
        import django
        from django.conf import settings
        from django.core.wsgi import get_wsgi_application
        from django.http import HttpResponse
        from django.urls import path
        from shop import orders

        settings.configure(SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])

        def show(request, number):
            logging.getLogger("shop").warning("served")
            return HttpResponse(str(orders.find(1)))

        urlpatterns = [path("orders/<number>", show)]
        app = get_wsgi_application()
    """,
    "wsgi": """
        import logging
        from shop import orders

        def app(environ, start_response):
            logging.getLogger("shop").warning("served")
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [str(orders.find(1)).encode()]
    """,
}
APPLICATIONS["django-asgi"] = APPLICATIONS["django"].replace("wsgi", "asgi")
ROUTES = {
    "fastapi": "/orders/{number}",
    "starlette": "/orders/{number}",
    "flask": "/orders/<number>",
    "django": "/orders/<number>",
    "django-asgi": "/orders/<number>",
    "asgi": "",
    "wsgi": "",
}

GUNICORN = ("gunicorn", "--no-control-socket", "-b", "127.0.0.1:PORT")
WSGI_SERVER = """
from wsgiref.simple_server import make_server
from app import app
make_server("127.0.0.1", {port}, app).serve_forever()
"""
AIOHTTP = """
import logging
from aiohttp import web
from shop import orders

async def show(request):
    logging.getLogger("shop").warning("served")
    return web.Response(text=str(orders.find(1)))

app = web.Application()
app.router.add_get("/orders/{number}", show)
web.run_app(app, host="127.0.0.1", port={port})
"""

SERVERS = [
    ("uvicorn", "fastapi", ("uvicorn", "app:app", "--port", "PORT")),
    ("uvicorn", "starlette", ("python", "-m", "uvicorn", "app:app", "--port", "PORT")),
    ("uvicorn", "asgi", ("uvicorn", "app:app", "--port", "PORT")),
    ("uvicorn", "fastapi", ("uvicorn", "app:app", "--port", "PORT", "--workers", "2")),
    ("uvicorn", "fastapi", ("uvicorn", "app:app", "--port", "PORT", "--reload")),
    ("gunicorn", "flask", (*GUNICORN, "app:app")),
    ("gunicorn", "flask", (*GUNICORN, "-k", "gthread", "--threads", "2", "-w", "2", "app:app")),
    ("gunicorn", "django", (*GUNICORN, "--preload", "-w", "2", "app:app")),
    ("gunicorn", "wsgi", (*GUNICORN, "app:app")),
    ("gunicorn", "fastapi", (*GUNICORN, "-k", "asgi", "app:app")),
    ("uvicorn_worker", "fastapi", (*GUNICORN, "-k", "uvicorn_worker.UvicornWorker", "app:app")),
    ("gevent", "flask", (*GUNICORN, "-k", "gevent", "app:app")),
    ("granian", "fastapi", ("granian", "--interface", "asgi", "--port", "PORT", "app:app")),
    ("granian", "wsgi", ("granian", "--interface", "wsgi", "--port", "PORT", "app:app")),
    ("hypercorn", "starlette", ("hypercorn", "-b", "127.0.0.1:PORT", "app:app")),
    ("uvicorn", "django-asgi", ("uvicorn", "app:app", "--port", "PORT")),
    ("waitress", "flask", ("waitress-serve", "--listen", "127.0.0.1:PORT", "app:app")),
    ("wsgiref", "wsgi", ("python", "serve.py")),
    ("aiohttp", "aiohttp", ("python", "app.py")),
]


@pytest.mark.parametrize(
    ("server", "application", "command"), SERVERS, ids=[f"{name}-{index}" for index, (name, *_) in enumerate(SERVERS)]
)
def test_a_served_request_has_its_id_everywhere(
    server: str,
    application: str,
    command: tuple[str, ...],
    start: Callable[..., Program],
    write: Callable[..., None],
    endpoint: Endpoint,
) -> None:
    for package in (server, application):
        needed = package.partition("-")[0]
        if needed not in ("asgi", "wsgi") and importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    port = free_port()
    text = AIOHTTP.replace("{port}", str(port)) if application == "aiohttp" else APPLICATIONS[application]
    write(app=text, shop__orders=WORK, serve=WSGI_SERVER.format(port=port))
    at_the_end = {"OTEL_METRIC_EXPORT_INTERVAL": "600000", "OTEL_BLRP_SCHEDULE_DELAY": "600000"}
    program = start(*(word.replace("PORT", str(port)) for word in command), CLEW_MEASURE="shop.orders:*", **at_the_end)
    program.wait_until(lambda: listens(f"127.0.0.1:{port}"))
    address = Address("127.0.0.1", port)
    names = [f"order-{number}" for number in range(5)]
    for name in names:
        response = address.get("/orders/7", ("X-Request-ID", name))
        assert response.status == 200, response.body
        assert response.one("x-request-id") == name
    program.stop()
    wanted = set(names)
    assert {found["request_id"] for found in endpoint.logged("served")} == wanted
    assert endpoint.operations()["shop.orders.find"] == 5
    assert endpoint.request_ids("operation.duration") <= wanted
    assert endpoint.request_ids("operation.duration")
    route = ROUTES.get(application, "/orders/{number}")
    measured = endpoint.counts("http.server.request.duration", "http.route")
    assert measured == {(route,): 5}
    assert endpoint.request_ids("http.server.request.duration")
