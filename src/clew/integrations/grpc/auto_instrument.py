"""The interceptors for every gRPC server and channel that is made."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from clew.integrations._shared.auto_instrument import patch
from clew.integrations.grpc.client import aio_client_interceptors, instrument
from clew.integrations.grpc.server import (
    AioServerInterceptor,
    ServerInterceptor,
    aio_server_interceptor,
    server_interceptor,
)


def instrument_all() -> None:
    """Give every server and channel that is made from now on our interceptors; a second call changes nothing.

    They have their defaults. A server that is made with one of ours goes by that alone. What has been imported from
    `grpc` by name before is not reached.
    """
    patch(grpc, "server", _made_server(ServerInterceptor, server_interceptor))
    patch(grpc.aio, "server", _made_server(AioServerInterceptor, aio_server_interceptor))
    for name in ("insecure_channel", "secure_channel"):
        patch(grpc, name, _made_channel)
        patch(grpc.aio, name, _made_aio_channel)


def _made_server(kind: type, interceptor: Callable[[], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def instrumented(make: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(make)

        def make_instrumented(*args: Any, **options: Any) -> Any:
            given = parameters.bind(*args, **options)
            found = tuple(given.arguments.get("interceptors") or ())
            if not any(isinstance(one, kind) for one in found):
                given.arguments["interceptors"] = (interceptor(), *found)
            return make(*given.args, **given.kwargs)

        return make_instrumented

    return instrumented


def _made_channel(make: Callable[..., grpc.Channel]) -> Callable[..., grpc.Channel]:
    def make_instrumented(target: str, *args: Any, **options: Any) -> grpc.Channel:
        return instrument(make(target, *args, **options), target)

    return make_instrumented


def _made_aio_channel(make: Callable[..., Any]) -> Callable[..., Any]:
    parameters = inspect.signature(make)

    def make_instrumented(*args: Any, **options: Any) -> Any:
        given = parameters.bind(*args, **options)
        found = tuple(given.arguments.get("interceptors") or ())
        given.arguments["interceptors"] = (*found, *aio_client_interceptors(given.arguments["target"]))
        return make(*given.args, **given.kwargs)

    return make_instrumented
