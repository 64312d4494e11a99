"""An ASGI application without a framework."""

from __future__ import annotations

from typing import Any

import shop

from clew.integrations.asgi import RequestMiddleware


async def answer(send: Any, status: int, *parts: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def stream(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    async for part in shop.async_parts():
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def talk(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    await send({"type": "websocket.send", "text": shop.look_up("by socket")})
    await send({"type": "websocket.close", "code": 1000})


async def live(receive: Any, send: Any) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


async def plain(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "websocket":
        await talk(receive, send)
    elif scope["path"] == "/fails":
        shop.fail()
    elif scope["path"] == "/refuses":
        await answer(send, 500, b"out of order")
    elif scope["path"] == "/stream":
        await stream(send)
    else:
        found = shop.look_up(scope["path"])
        await shop.ask_stock_async()
        await answer(send, 200, found.encode())


application: Any = RequestMiddleware(plain)
if shop.CONTRIB:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    application = OpenTelemetryMiddleware(application)
