"""The request ID for gRPC servers and clients, the ones of `grpc` and of `grpc.aio`.

```python
server = grpc.server(pool, interceptors=[clew.integrations.grpc.server_interceptor()])
channel = clew.integrations.grpc.instrument(grpc.insecure_channel("stock:50051"))

server = grpc.aio.server(interceptors=[clew.integrations.grpc.aio_server_interceptor()])
channel = grpc.aio.insecure_channel(
    "stock:50051", interceptors=clew.integrations.grpc.aio_client_interceptors("stock:50051")
)
```
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.context import get_current

from clew.failures import error_type_of
from clew.integrations._shared.auto_instrument import patch
from clew.integrations._shared.incoming import RequestIdOptions, ignored, incoming, is_ignored
from clew.integrations._shared.rpc_metrics import RpcInstrument
from clew.integrations._shared.server_request import ServerRequest, in_no_request
from clew.interpreter.interruptions import Suppressed
from clew.propagation.cell import cell_in
from clew.propagation.propagator import CarrierCell, RawHeaders

try:
    import grpc
    import grpc.aio
except ImportError as error:
    raise ImportError("clew.integrations.grpc needs grpcio: pip install 'clew[grpc]'") from error

from clew.integrations.grpc_client import aio_client_interceptors, instrument, is_key, key_of

__all__ = [
    "aio_client_interceptors",
    "aio_server_interceptor",
    "instrument",
    "instrument_all",
    "server_interceptor",
]

_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""The status codes that are the server's failures; the others say that the call asked for something wrong."""

_ROUNDED = 0.02
"""A call that its client ends with no more than this share of its time left has come to its deadline: on its way to the
server a deadline is rounded up, by up to a hundredth of it."""

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}

_instrument = RpcInstrument(__name__)

# the server


def server_interceptor(
    *,
    headers: str | Iterable[str] | None = None,
    validator: Callable[[str], object] | None = None,
    transformer: Callable[[str], str] | None = None,
    generator: Callable[[], str] | None = None,
    trust: bool | None = None,
    echo: bool | str = True,
    ignore: Iterable[str] | Callable[[grpc.HandlerCallDetails], bool] = (),
    metrics: bool = True,
) -> grpc.ServerInterceptor:
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
    return _ServerInterceptor(
        ignore=ignore,
        metrics=metrics,
        headers=headers,
        validator=validator,
        transformer=transformer,
        generator=generator,
        trust=trust,
        echo=echo,
    )


def aio_server_interceptor(
    *,
    headers: str | Iterable[str] | None = None,
    validator: Callable[[str], object] | None = None,
    transformer: Callable[[str], str] | None = None,
    generator: Callable[[], str] | None = None,
    trust: bool | None = None,
    echo: bool | str = True,
    ignore: Iterable[str] | Callable[[grpc.HandlerCallDetails], bool] = (),
    metrics: bool = True,
) -> grpc.aio.ServerInterceptor:
    """Return the interceptor that makes each call of a `grpc.aio.server` a request. It belongs first in the list.

    The keywords are those of `server_interceptor`.

    Raises:
        TypeError, ValueError: A keyword has a value that it does not take.
    """
    return _AioServerInterceptor(
        ignore=ignore,
        metrics=metrics,
        headers=headers,
        validator=validator,
        transformer=transformer,
        generator=generator,
        trust=trust,
        echo=echo,
    )


def instrument_all() -> None:
    """Give every server and channel that is made from now on our interceptors; a second call changes nothing.

    They have their defaults. A server that is made with one of ours goes by that alone. What has been imported from
    `grpc` by name before is not reached.
    """
    patch(grpc, "server", _made_server(_ServerInterceptor, server_interceptor))
    patch(grpc.aio, "server", _made_server(_AioServerInterceptor, aio_server_interceptor))
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


class _Options:
    """What an interceptor was told."""

    def __init__(self, *, ignore: Any, metrics: Any, **options: Any) -> None:
        owner = f"{__name__}.server_interceptor"
        self.incoming: RequestIdOptions = incoming(owner, expose=False, **options)
        self._ignore = ignored(owner, ignore)
        if metrics is not True and metrics is not False:
            raise ValueError(f"{owner}: metrics takes True or False, not {metrics!r}")
        self.metrics: bool = metrics
        echo = self.incoming.echo
        for name in (*(self.incoming.headers or ()), *((echo,) if isinstance(echo, str) else ())):
            if not is_key(name.lower()):
                raise ValueError(f"{owner}: {name!r} is no name in metadata: a-z 0-9 _ . - and no -bin at the end")

    def wrap(self, handler: Any, details: Any) -> Any:
        """Return the handler whose calls are requests, or in none where they are ignored; as it is where it is none."""
        if handler is None:
            return handler
        is_passed_on = is_ignored(self._ignore, details, details.method)
        sides = (handler.request_streaming, handler.response_streaming)
        kind = "_".join("stream" if is_streaming else "unary" for is_streaming in sides)
        behavior = getattr(handler, kind)
        if getattr(behavior, "experimental_non_blocking", False):  # answers by a callback, when it has returned
            return handler
        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")

        def entered(context: Any) -> AbstractContextManager[None]:
            return in_no_request() if is_passed_on else _Call(self, details, context)

        wrapped = _wrapped(behavior, entered, is_stream=handler.response_streaming)
        return make(wrapped, handler.request_deserializer, handler.response_serializer)


class _ServerInterceptor(grpc.ServerInterceptor):
    def __init__(self, **options: Any) -> None:
        self._options = _Options(**options)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return self._options.wrap(continuation(handler_call_details), handler_call_details)


class _AioServerInterceptor(grpc.aio.ServerInterceptor):
    def __init__(self, **options: Any) -> None:
        self._options = _Options(**options)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return self._options.wrap(await continuation(handler_call_details), handler_call_details)


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

    def __init__(self, options: _Options, details: Any, context: Any) -> None:
        self._options = options
        self._method = str(details.method).lstrip("/")
        self._context = context
        self._metadata = [(str(key), value) for key, value in details.invocation_metadata or ()]
        self._served: ServerRequest | None = None
        self._time_allowed: float | None = None

    def __enter__(self) -> None:
        raw = [(_bytes(key), _bytes(value)) for key, value in self._metadata]
        if _is_served(raw):  # by an interceptor of ours further out
            return
        options = self._options
        self._request_id = options.incoming.choose(self._read)
        self._served = ServerRequest(self._request_id, None, raw)
        with Suppressed():
            self._time_allowed = self._context.time_remaining()
        self._measurement = _instrument.begin("grpc", self._method) if options.metrics else None
        self._echo(is_first=True)  # a call that is aborted sends what is there by then

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        served = self._served
        if served is None:
            return
        self._echo()
        status, error_type = self._outcome(error)
        if self._measurement is not None:
            self._measurement.end(status=status, error_type=error_type, context=served.context)
        is_unhandled = error_type is not None and error_type != status
        if served.is_followed:
            fields = {"rpc.system.name": "grpc", "rpc.method": self._method, "rpc.response.status_code": status}
            served.end(failure=error_type, name=self._method, attributes=fields)
        served.leave(error if is_unhandled else None, error_type)

    def _read(self, name: str) -> str | None:
        wanted = name.lower()
        for key, value in self._metadata:
            if key == wanted:
                return value.decode("latin-1") if isinstance(value, bytes) else str(value)
        return None

    def _echo(self, *, is_first: bool = False) -> None:
        """Put the ID among the trailing metadata that there is so far."""
        name = self._options.incoming.echo_name(self._options.incoming.came_in(self._read))
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
    return (
        isinstance(cell, CarrierCell)
        and cell.is_served
        and not cell.ended
        and cell.headers is not None
        and list(cell.headers) == raw
    )


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "replace")
