"""What is switched on in a program without `clew`, and that what it has chosen itself stays."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from run.conftest import CLEW_RUN, Endpoint

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Run a program to its end and return what it has printed."""

    def end(program: str, **variables: str) -> str:
        (tmp_path / "program.py").write_text(textwrap.dedent(program))
        ended = subprocess.run(
            [*CLEW_RUN, "python", "program.py"],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    return end


ECHO = """
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(self.headers["X-Request-ID"]).encode()
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/moved"
"""

CLIENTS = {
    "httpx": "print(httpx.get(url, follow_redirects=True, trust_env=False).text)",
    "httpx client": """
        import asyncio
        async def ask():
            async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as client:
                return (await client.get(url)).text
        print(asyncio.run(ask()))
    """,
    "requests": "print(requests.get(url, proxies={'http': None}).text)",
    "aiohttp": """
        import asyncio
        async def ask():
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                return await response.text()
        print(asyncio.run(ask()))
    """,
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("hosts", "sent"), [("", "order-1"), ("elsewhere.example", "None")])
def test_a_client_sends_the_id_on_to_hosts_that_may_have_it(client: str, hosts: str, sent: str, run: Run) -> None:
    package = client.partition(" ")[0]
    pytest.importorskip(package)
    program = f"{ECHO}\nimport clew, {package}\nwith clew.request('order-1'):\n"
    program += textwrap.indent(textwrap.dedent(CLIENTS[client]), "    ")
    assert run(program, CLEW_REQUEST_ID_HOSTS=hosts) == f"{sent}\n"


def test_threads_and_pools_started_in_a_request_carry_it(run: Run) -> None:
    program = """
        import clew
        from concurrent.futures import ThreadPoolExecutor
        with clew.request("order-1"), ThreadPoolExecutor() as pool:
            print(pool.submit(clew.request_id).result())
    """
    assert run(program) == "order-1\n"


GRPC = """
import clew, grpc, grpc.aio
from concurrent.futures import ThreadPoolExecutor

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        def answer(request, context):
            return str(clew.request_id()).encode()
        return grpc.unary_unary_rpc_method_handler(answer)

server = grpc.server(ThreadPoolExecutor(2), [Handler()])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, clew.request("order-1"):
    call = channel.unary_unary("/shop.Orders/Get")
    print(call(b"").decode())

async def ask():
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with clew.request("order-2"):
            return (await channel.unary_unary("/shop.Orders/Get")(b"")).decode()

import asyncio
print(asyncio.run(ask()))
server.stop(None).wait()
"""


def test_grpc_carries_the_id_from_client_to_server(run: Run, endpoint: Endpoint) -> None:
    pytest.importorskip("grpc")
    assert run(GRPC) == "order-1\norder-2\n"
    assert sum(endpoint.counts("rpc.server.call.duration").values()) == 2


# --------------------------------------------------------------------------------- what the application has itself

OWN = {
    "starlette": """
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        from starlette.testclient import TestClient
        from clew.integrations.starlette import RequestMiddleware, instrument

        async def show(request):
            return PlainTextResponse("shown")

        def asked(app):
            return dict(TestClient(app).get("/").headers)

        def make():
            return Starlette(routes=[Route("/", show)])

        by_function = instrument(make(), echo="X-Own")
        added = make()
        added.add_middleware(RequestMiddleware, echo="X-Own")
    """,
    "flask": """
        from flask import Flask
        from clew.integrations.flask import RequestMiddleware, instrument

        def asked(app):
            return {name.lower(): value for name, value in app.test_client().get("/").headers.items()}

        def make():
            app = Flask("shop")
            app.add_url_rule("/", view_func=lambda: "shown")
            return app

        by_function = instrument(make(), echo="X-Own")
        added = make()
        added.wsgi_app = RequestMiddleware(added.wsgi_app, echo="X-Own")
    """,
}


@pytest.mark.parametrize("framework", OWN)
def test_a_middleware_that_the_application_has_itself_counts_alone(
    framework: str, run: Run, endpoint: Endpoint
) -> None:
    pytest.importorskip(framework)
    program = textwrap.dedent(OWN[framework]) + textwrap.dedent("""
        for app in (by_function, added, make()):
            for _ in range(2):
                headers = asked(app)
            print("x-own" in headers, "x-request-id" in headers)
    """)
    assert run(program, PYTHONWARNINGS="ignore") == "True False\nTrue False\nFalse True\n"
    assert sum(endpoint.counts("http.server.request.duration").values()) == 6


DJANGO = """
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

settings.configure(SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE={middleware}, **{others})
urlpatterns = [path("", lambda request: HttpResponse("shown"))]
from django.core.wsgi import get_wsgi_application
from wsgiref.util import setup_testing_defaults

app = {app}

def ask():
    environ, found = {{}}, []
    setup_testing_defaults(environ)
    body = app(environ, lambda status, headers, *rest: found.extend(name.lower() for name, _ in headers))
    list(body)
    body.close()
    return found

for _ in range(2):
    headers = ask()
print("x-own" in headers, "x-request-id" in headers)
"""


@pytest.mark.parametrize(
    ("middleware", "others", "app", "printed"),
    [
        ([], {}, "get_wsgi_application()", "False True"),
        (["clew.integrations.django.RequestMiddleware"], {"CLEW_REQUEST": {"echo": "X-Own"}}, "get_wsgi_application()",
         "True False"),
        ([], {}, "__import__('clew.integrations.django', fromlist=['instrument']).instrument(get_wsgi_application(), "
         "echo='X-Own')", "True False"),
    ],
)  # fmt: skip
def test_what_a_django_project_has_itself_counts_alone(
    middleware: list[str], others: dict[str, object], app: str, printed: str, run: Run, endpoint: Endpoint
) -> None:
    pytest.importorskip("django")
    assert run(DJANGO.format(middleware=middleware, others=others, app=app)) == f"{printed}\n"
    assert sum(endpoint.counts("http.server.request.duration").values()) == 2


MOUNTED = """
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware.wsgi import WSGIMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
import clew

flask = Flask("shop")
flask.add_url_rule("/", view_func=lambda: str(clew.request_id()))

async def show(request):
    return PlainTextResponse(str(clew.request_id()))

inner = Starlette(routes=[Route("/", show)])
app = Starlette(routes=[Mount("/inner", inner), Mount("/flask", WSGIMiddleware(flask))])
client = TestClient(app)
for path in ("/inner/", "/flask/"):
    response = client.get(path)
    print(response.text == response.headers["x-request-id"], len(response.headers.get_list("x-request-id")))
"""


def test_an_application_inside_another_is_in_the_same_request(run: Run, endpoint: Endpoint) -> None:
    for package in ("flask", "starlette"):
        pytest.importorskip(package)
    assert run(MOUNTED, PYTHONWARNINGS="ignore") == "True 1\nTrue 1\n"
    assert sum(endpoint.counts("http.server.request.duration").values()) == 2


def test_an_integration_that_cannot_be_switched_on_is_logged_and_the_import_goes_on(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "requests.py").write_text("mark = 1\n")  # another module of that name
    command = [*CLEW_RUN, "python", "-c", "import requests; print(requests.mark)"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "1\n")
    assert ended.stderr.startswith("What was to happen after the import of requests failed: ")
