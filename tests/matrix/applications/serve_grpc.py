"""The gRPC service of a shop, by `grpc` or `grpc.aio`, on the port that the command line names."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import shop

from clew.integrations.grpc import aio_server_interceptor, server_interceptor


def read_item(request: bytes, context: Any) -> bytes:
    found = shop.look_up(request.decode())
    shop.ask_stock()
    return found.encode()


async def read_item_async(request: bytes, context: Any) -> bytes:
    found = shop.look_up(request.decode())
    await shop.ask_stock_async()
    return found.encode()


def fail(request: bytes, context: Any) -> bytes:
    shop.fail()
    return b""


async def fail_async(request: bytes, context: Any) -> bytes:
    return fail(request, context)


def refuse(request: bytes, context: Any) -> bytes:
    context.set_code(grpc.StatusCode.INTERNAL)
    return b""


async def refuse_async(request: bytes, context: Any) -> bytes:
    return refuse(request, context)


def stream(request: bytes, context: Any) -> Iterator[bytes]:
    return shop.parts()


async def stream_async(request: bytes, context: Any) -> AsyncIterator[bytes]:
    async for part in shop.async_parts():
        yield part


def handlers(*, is_async: bool) -> Any:
    unary = {"ReadItem": (read_item, read_item_async), "Fail": (fail, fail_async), "Refuse": (refuse, refuse_async)}
    methods = {name: grpc.unary_unary_rpc_method_handler(both[is_async]) for name, both in unary.items()}
    methods["Stream"] = grpc.unary_stream_rpc_method_handler((stream, stream_async)[is_async])
    return grpc.method_handlers_generic_handler("shop.Shop", methods)


def serve(address: str) -> None:
    theirs: list[Any] = []
    if shop.CONTRIB:
        from opentelemetry.instrumentation.grpc import server_interceptor as contribs

        theirs = [contribs()]
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[*theirs, server_interceptor()])
    server.add_generic_rpc_handlers((handlers(is_async=False),))
    server.add_insecure_port(address)
    server.start()
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    over.wait()
    server.stop(5).wait()


async def serve_async(address: str) -> None:
    theirs: list[Any] = []
    if shop.CONTRIB:
        from opentelemetry.instrumentation.grpc import aio_server_interceptor as contribs

        theirs = [contribs()]
    server = grpc.aio.server(interceptors=[*theirs, aio_server_interceptor()])
    server.add_generic_rpc_handlers((handlers(is_async=True),))
    server.add_insecure_port(address)
    await server.start()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await over.wait()
    await server.stop(5)


if __name__ == "__main__":
    shop.configure_logging()
    kind, port = sys.argv[1:]
    if kind == "sync":
        serve(f"127.0.0.1:{port}")
    else:
        asyncio.run(serve_async(f"127.0.0.1:{port}"))
