"""The request ID for gRPC servers, and the measurement of their calls."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from opentelemetry.context import get_current

from clew.failures import error_type_of
from clew.integrations._shared.rpc_metrics import RpcInstrument
from clew.integrations._shared.server_options import RequestIdArguments, ServerOptions, server_options
from clew.integrations._shared.server_request import ServerRequest, in_no_request
from clew.integrations.grpc.client import is_key, key_of
from clew.interpreter.interruptions import Suppressed
from clew.propagation.cell import RawHeaders, cell_in

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""The status codes that are the server's failures; the others say that the call asked for something wrong."""

_ROUNDED = 0.02
"""A call that its client ends with no more than this share of its time left has come to its deadline: on its way to the
server a deadline is rounded up, by up to a hundredth of it."""

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}

_instrument = RpcInstrument("clew.integrations.grpc")


class GrpcArguments(RequestIdArguments, total=False):
    """The keywords of both interceptors."""

    ignore: Iterable[str] | Callable[[grpc.HandlerCallDetails], bool]
    metrics: bool


def server_interceptor(**options: Unpack[GrpcArguments]) -> grpc.ServerInterceptor:
    """Return the interceptor that makes each call of a `grpc.server` a request. It belongs first in the list.

    Args:
        headers: The names of metadata that an ID is accepted in, one or several; None for the configured header. In
            metadata every name is in lower case.
        validator, transformer, generator, trust: As for `clew.integrations.asgi.RequestMiddleware`.
        echo: Whether the trailing metadata carries the ID: True under the name of the request's, or another name.
        ignore: Full method names (``/grpc.health.v1.Health/Check``, or a callable that gets the
            `grpc.HandlerCallDetails`) that are passed on as if there were no interceptor.
        metrics: Whether ``rpc.server.call.duration`` is recorded.

    Raises:
        TypeError, ValueError: A keyword has a value that it does not take.
    """
    return ServerInterceptor(_options("server_interceptor", options))


def aio_server_interceptor(**options: Unpack[GrpcArguments]) -> grpc.aio.ServerInterceptor:
    """Return the interceptor that makes each call of a `grpc.aio.server` a request. It belongs first in the list.

    The keywords are those of `server_interceptor`.

    Raises:
        TypeError, ValueError: A keyword has a value that it does not take.
    """
    return AioServerInterceptor(_options("aio_server_interceptor", options))


def _options(function: str, given: GrpcArguments) -> ServerOptions:
    owner = f"clew.integrations.grpc.{function}"
    metrics = given.get("metrics", True)
    if metrics is not True and metrics is not False:
        raise ValueError(f"{owner}: metrics takes True or False, not {metrics!r}")
    options = server_options(owner, given, GrpcArguments.__optional_keys__)
    for name in (*(options.headers or ()), *((options.echo,) if isinstance(options.echo, str) else ())):
        if not is_key(name.lower()):
            raise ValueError(f"{owner}: {name!r} is no name in metadata: a-z 0-9 _ . - and no -bin at the end")
    return options


class ServerInterceptor(grpc.ServerInterceptor):
    """The interceptor of a `grpc.server`."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler that gRPC has found, in requests."""
        return _in_request(self._options, continuation(handler_call_details), handler_call_details)


class AioServerInterceptor(grpc.aio.ServerInterceptor):
    """The interceptor of a `grpc.aio.server`."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler that gRPC has found, in requests."""
        return _in_request(self._options, await continuation(handler_call_details), handler_call_details)


def _in_request(options: ServerOptions, handler: Any, details: Any) -> Any:
    """Return the handler whose calls are requests, or in none where they are ignored; as it is where it is none."""
    if handler is None:
        return handler
    is_passed_on = options.is_ignored(details, details.method)
    sides = (handler.request_streaming, handler.response_streaming)
    kind = "_".join("stream" if is_streaming else "unary" for is_streaming in sides)
    behavior = getattr(handler, kind)
    if getattr(behavior, "experimental_non_blocking", False):  # answers by a callback, when it has returned
        return handler
    make: Any = getattr(grpc, f"{kind}_rpc_method_handler")

    def entered(context: Any) -> AbstractContextManager[None]:
        return in_no_request() if is_passed_on else _Call(options, details, context)

    wrapped = _wrapped(behavior, entered, is_stream=handler.response_streaming)
    return make(wrapped, handler.request_deserializer, handler.response_serializer)


def _wrapped(behavior: Any, entered: Callable[[Any], AbstractContextManager[None]], *, is_stream: bool) -> Any:
    """Return a behavior of the same form, by which gRPC tells how to run it."""
    if inspect.isasyncgenfunction(behavior):

        async def generate_async(request: Any, context: Any) -> AsyncIterator[Any]:
            with entered(context):
                async for response in behavior(request, context):
                    yield response

        return generate_async
    if inspect.iscoroutinefunction(behavior):  # of a stream too: it writes its responses itself

        async def call_async(request: Any, context: Any) -> Any:
            with entered(context):
                return await behavior(request, context)

        return call_async
    if is_stream:

        def generate(request: Any, context: Any) -> Iterator[Any]:
            with entered(context):
                yield from behavior(request, context)

        return generate

    def call(request: Any, context: Any) -> Any:
        with entered(context):
            return behavior(request, context)

    return call


class _Call(AbstractContextManager[None]):
    """One call on its way through an interceptor."""

    def __init__(self, options: ServerOptions, details: Any, context: Any) -> None:
        self._options = options
        self._method = str(details.method).lstrip("/")
        self._context = context
        self._metadata = [(str(key), value) for key, value in details.invocation_metadata or ()]
        self._request: ServerRequest | None = None
        self._time_allowed: float | None = None

    def __enter__(self) -> None:
        raw = [(_bytes(key), _bytes(value)) for key, value in self._metadata]
        if _is_served(raw):  # by an interceptor of ours further out
            return
        options = self._options
        self._request_id = options.choose(self._read)
        self._request = ServerRequest(self._request_id, None, raw)
        with Suppressed():
            self._time_allowed = self._context.time_remaining()
        self._measurement = _instrument.begin("grpc", self._method) if options.metrics else None
        self._echo(is_first=True)  # a call that is aborted sends what is there by then

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        request = self._request
        if request is None:
            return
        self._echo()
        status, error_type = self._outcome(error)
        if self._measurement is not None:
            self._measurement.end(status=status, error_type=error_type, context=request.context)
        is_unhandled = error_type is not None and error_type != status
        if request.is_tracked:
            fields = {"rpc.system.name": "grpc", "rpc.method": self._method, "rpc.response.status_code": status}
            request.end(failure=error_type, name=self._method, attributes=fields)
        request.leave(error if is_unhandled else None, error_type)

    def _read(self, name: str) -> str | None:
        wanted = name.lower()
        for key, value in self._metadata:
            if key == wanted:
                return value.decode("latin-1") if isinstance(value, bytes) else str(value)
        return None

    def _echo(self, *, is_first: bool = False) -> None:
        """Put the ID among the trailing metadata that there is so far."""
        name = self._options.echo_name(self._options.came_in(self._read))
        if name is None:
            return
        key = key_of(name)
        if key is None:
            return
        with Suppressed():
            kept: list[Any] = []
            if hasattr(self._context, "trailing_metadata"):
                kept = [(k, v) for k, v in self._context.trailing_metadata() or () if k != key]
            elif not is_first:  # what a plain function sets in a server of `grpc.aio` cannot be read: it stays
                return
            self._context.set_trailing_metadata((*kept, (key, self._request_id)))

    def _outcome(self, error: BaseException | None) -> tuple[str, str | None]:
        """Return the status code that the client gets, and the error type where that is a failure of the server."""
        code = self._code()
        if code == "OK":
            cut_off = self._cut_off(error)
            if cut_off is None and error is not None:
                return "UNKNOWN", error_type_of(type(error))
            code = cut_off or code
        return code, code if code in _ERRORS else None

    def _code(self) -> str:
        with Suppressed():
            found = self._context.code()
            if isinstance(found, grpc.StatusCode):
                return found.name
            if isinstance(found, int):
                return _CODES.get(found, "UNKNOWN")
        return "OK"

    def _cut_off(self, error: BaseException | None) -> str | None:
        """Return how the client ended the call before the server did, or None where it did not."""
        with Suppressed():
            context = self._context
            if type(error).__name__ == "CancelledError" or (hasattr(context, "is_active") and not context.is_active()):
                left, allowed = context.time_remaining(), self._time_allowed
                is_late = left is not None and allowed is not None and left <= _ROUNDED * allowed
                return "DEADLINE_EXCEEDED" if is_late else "CANCELLED"
        return None


def _is_served(raw: RawHeaders) -> bool:
    cell = cell_in(get_current())
    return isinstance(cell, ServerRequest) and not cell.ended and cell.headers is not None and list(cell.headers) == raw


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "replace")
