"""An application of aiohttp's own server, on the port that the command line names."""

from __future__ import annotations

import sys

import shop
from aiohttp import web

from clew.integrations.aiohttp import instrument


async def read_item(request: web.Request) -> web.Response:
    found = shop.look_up(request.match_info["item"])
    await shop.ask_stock_async()
    return web.Response(text=found)


async def fail(request: web.Request) -> web.Response:
    shop.fail()
    return web.Response()


async def refuse(request: web.Request) -> web.Response:
    return web.Response(text="out of order", status=500)


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    async for part in shop.async_parts():
        await response.write(part)
    return response


async def talk(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.receive_str()
    await socket.send_str(shop.look_up("by socket"))
    await socket.close()
    return socket


def application() -> web.Application:
    if shop.CONTRIB:
        from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor

        AioHttpServerInstrumentor().instrument()
    app = web.Application()
    app.add_routes(
        [
            web.get("/items/{item}", read_item),
            web.get("/fails", fail),
            web.get("/refuses", refuse),
            web.get("/stream", stream),
            web.get("/socket", talk),
        ]
    )
    return instrument(app)


if __name__ == "__main__":
    shop.configure_logging()
    web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
