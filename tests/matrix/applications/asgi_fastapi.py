"""A FastAPI application."""

from __future__ import annotations

import shop
from fastapi import FastAPI, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse

from clew.integrations.fastapi import instrument

application = FastAPI()


@application.get("/items/{item}", response_class=PlainTextResponse)
async def read_item(item: str) -> str:
    found = shop.look_up(item)
    await shop.ask_stock_async()
    return found


@application.get("/fails")
def fail() -> None:
    shop.fail()


@application.get("/refuses", response_class=PlainTextResponse, status_code=500)
def refuse() -> str:
    return "out of order"


@application.get("/stream")
def stream() -> StreamingResponse:
    return StreamingResponse(shop.parts())


@application.websocket("/socket")
async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive_text()
    await websocket.send_text(shop.look_up("by socket"))
    await websocket.close()


if shop.CONTRIB:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(application)
instrument(application)
