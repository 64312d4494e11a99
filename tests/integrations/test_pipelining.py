"""Requests that come in one piece, and one after the other, on a connection of real servers: each is its own."""

from __future__ import annotations

import importlib.util
import re
import socket
import sys
from pathlib import Path

import pytest
from real_parts import Program, environment_without_settings, free_port, listens

APPLICATIONS = """
import sys

import clew
from clew.integrations import aiohttp, asgi, wsgi


async def in_asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": told()})
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-length", str(len(told())).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": told().encode()})


def in_wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", str(len(told())))])
    return [told().encode()]


def told():
    return f"<{clew.request_id()}>"


asgi_application = asgi.RequestMiddleware(in_asgi, ignore=["/ignored"])
wsgi_application = wsgi.RequestMiddleware(in_wsgi, ignore=["/ignored"])

if __name__ == "__main__":
    from aiohttp import web

    async def answer(request):
        return web.Response(text=told())

    async def speak(request):
        spoken = web.WebSocketResponse()
        await spoken.prepare(request)
        await spoken.send_str(told())
        await spoken.close()
        return spoken

    application = web.Application()
    application.add_routes([web.get("/websocket", speak), web.get("/{path}", answer)])
    aiohttp.instrument(application, ignore=["/ignored"])
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]))
"""

ASGI, WSGI = "program:asgi_application", "program:wsgi_application"
SERVERS = {
    "hypercorn": ("hypercorn", ASGI, "--bind", "127.0.0.1:{port}"),
    "granian": ("granian", ASGI, "--port", "{port}", "--interface", "asgi"),
    "granian, WSGI": ("granian", WSGI, "--port", "{port}", "--interface", "wsgi", "--blocking-threads", "1"),
    "gunicorn gthread": (
        *("gunicorn", WSGI, "--bind", "127.0.0.1:{port}", "--no-control-socket"),
        *("--worker-class", "gthread", "--threads", "1", "--keep-alive", "60"),
    ),
    "waitress": ("waitress", "--listen", "127.0.0.1:{port}", "--threads", "1", WSGI),
    "aiohttp": ("program", "{port}"),
}
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
UPGRADE += ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",)
REQUESTS = [("/a", "id-1"), ("/ignored", None), ("/b", "id-2"), ("/ignored", "id-3"), ("/c", "id-4")]
ANSWERS = ["id-1", "None", "id-2", "None", "id-4"]


def request(path: str, name: str | None, *further: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: shop", *([f"X-Request-ID: {name}"] if name else []), *further, "", ""]
    return "\r\n".join(lines).encode()


def told(connection: socket.socket, count: int) -> list[str]:
    answered = b""
    while len(found := re.findall(rb"<([^>]*)>", answered)) < count:
        piece = connection.recv(65536)
        assert piece, answered
        answered += piece
    return [name.decode() for name in found]


@pytest.mark.parametrize("name", SERVERS)
def test_requests_on_one_connection_are_apart(name: str, tmp_path: Path) -> None:
    command = SERVERS[name]
    if command[0] != "program" and importlib.util.find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    pytest.importorskip("aiohttp")
    (tmp_path / "program.py").write_text(APPLICATIONS)
    port = free_port()
    started = [sys.executable, "-m", *(part.replace("{port}", str(port)) for part in command)]
    server = Program("server", started, tmp_path, {**environment_without_settings(), "PYTHONPATH": str(tmp_path)})
    try:
        server.wait_until(lambda: listens(f"127.0.0.1:{port}"))
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"".join(request(*one) for one in REQUESTS))
            assert told(connection, len(REQUESTS)) == ANSWERS
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            for one, answer in zip(REQUESTS, ANSWERS, strict=True):
                connection.sendall(request(*one))
                assert told(connection, 1) == [answer]
            if WSGI not in command:
                connection.sendall(request("/websocket", "id-5", *UPGRADE))
                assert told(connection, 1) == ["id-5"]
    finally:
        server.stop()
