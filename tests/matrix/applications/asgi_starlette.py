"""A Starlette application."""

from __future__ import annotations

import shop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from clew.integrations.starlette import instrument


async def read_item(request: Request) -> Response:
    found = shop.look_up(request.path_params["item"])
    await shop.ask_stock_async()
    return PlainTextResponse(found)


async def fail(request: Request) -> None:
    shop.fail()


async def refuse(request: Request) -> Response:
    return PlainTextResponse("out of order", 500)


async def stream(request: Request) -> Response:
    return StreamingResponse(shop.async_parts())


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive_text()
    await websocket.send_text(shop.look_up("by socket"))
    await websocket.close()


application = Starlette(
    routes=[
        Route("/items/{item}", read_item),
        Route("/fails", fail),
        Route("/refuses", refuse),
        Route("/stream", stream),
        WebSocketRoute("/socket", talk),
    ]
)
if shop.CONTRIB:
    from opentelemetry.instrumentation.starlette import StarletteInstrumentor

    StarletteInstrumentor.instrument_app(application)
instrument(application)
