"""OTLP received over HTTP (protobuf and JSON) and over gRPC. Both answer once the export is committed.

Follows the OTLP specification 1.x: 400 with a Status for what cannot be read, 503 (UNAVAILABLE) for what may be sent
again, *partial success* for what was read and cannot be stored in part.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from clew.local import otlp, payload
from clew.local.invalid_text import LeftOut, without_invalid_text
from clew.local.rows import Batch

_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_DRAINED = 4 * payload.LARGEST  # bytes of a refused body that are read
_AT_ONCE = 4  # large exports are parsed by so many threads; the rest wait their turn


class _Signal(NamedTuple):
    name: str
    path: str
    service: str
    request: type[Message]
    response: type[Message]
    rejected: str
    rows: Callable[[Any, str], Batch]


_SIGNALS = (
    _Signal(
        "metrics",
        "/v1/metrics",
        "opentelemetry.proto.collector.metrics.v1.MetricsService",
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
        "rejected_data_points",
        otlp.metrics,
    ),
    _Signal(
        "spans",
        "/v1/traces",
        "opentelemetry.proto.collector.trace.v1.TraceService",
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
        "rejected_spans",
        otlp.spans,
    ),
    _Signal(
        "logs",
        "/v1/logs",
        "opentelemetry.proto.collector.logs.v1.LogsService",
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
        "rejected_log_records",
        otlp.log_lines,
    ),
)


class Receiver:
    """OTLP over HTTP and gRPC: from the bytes of an export to its answer.

    Args:
        write: takes a batch; its future is done once the batch is committed.
        request_id_attribute: the attribute that holds the request ID.
        warn: called with one line about each export or part of one that is not stored.
    """

    def __init__(
        self, write: Callable[[Batch], Future[Batch]], request_id_attribute: str, warn: Callable[[str], None]
    ) -> None:
        self._write = write
        self._request_id_attribute = request_id_attribute
        self._warn = warn
        self._parsers = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="clew otlp")

    def http_application(self) -> Starlette:
        """Return the ASGI application of OTLP/HTTP: ``POST /v1/metrics``, ``/v1/traces``, ``/v1/logs``."""
        routes = [Route(signal.path, self._http_export(signal), methods=["POST"]) for signal in _SIGNALS]
        return Starlette(routes=routes, exception_handlers={HTTPException: _http_refusal})

    def grpc_server(self, address: str) -> tuple[grpc.Server, int]:
        """Return a gRPC server bound to `address` (``host:port``), not yet started, and its port.

        Raises:
            OSError: the address is taken or not one of this machine.
        """
        options = [("grpc.max_receive_message_length", payload.LARGEST), ("grpc.so_reuseport", 0)]
        server = grpc.server(ThreadPoolExecutor(16, thread_name_prefix="clew grpc"), options=options)
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    # The generated servicers parse by themselves and answer INTERNAL to bytes that they cannot read.
                    signal.service,
                    {"Export": grpc.unary_unary_rpc_method_handler(self._grpc_export(signal))},
                )
                for signal in _SIGNALS
            ]
        )
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        if not port:
            raise OSError("the address is in use")
        return server, port

    def close(self) -> None:
        """End the parsing threads."""
        self._parsers.shutdown()

    def _http_export(self, signal: _Signal) -> Callable[[Request], Any]:
        async def export(request: Request) -> Response:
            content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            as_json = content_type == _JSON
            pieces = request.stream()
            try:
                if content_type not in (_PROTOBUF, _JSON):
                    raise HTTPException(415, f"Content-Type is {content_type!r}; allowed are {_PROTOBUF} and {_JSON}")
                encoding = request.headers.get("content-encoding", "identity").strip().lower()
                if encoding not in ("gzip", "identity", "none", ""):
                    raise HTTPException(415, f"Content-Encoding is {encoding!r}; allowed are gzip and identity")
                if int(request.headers.get("content-length") or 0) > payload.LARGEST:
                    raise payload.TooLargeError
                body = payload.Body(encoding == "gzip")
                async for piece in pieces:
                    body.feed(piece)
                loop = asyncio.get_running_loop()
                batch = await loop.run_in_executor(self._parsers, self._parse, signal, body.end(), as_json)
                batch = await asyncio.wrap_future(self._write(batch))
            except ClientDisconnect:
                return Response(status_code=400)
            except HTTPException as refusal:
                await _drain(pieces)
                return await self._http_refuse(signal, refusal.status_code, 3, refusal.detail, as_json)
            except (payload.MalformedError, ValueError) as error:
                return await self._http_refuse(signal, 400, 3, str(error), as_json)
            except payload.TooLargeError as error:
                await _drain(pieces)
                return await self._http_refuse(signal, 413, 8, str(error), as_json)
            except sqlite3.Error as error:
                return await self._http_refuse(signal, 503, 14, f"the store cannot take it now: {error}", as_json)
            return _http_answer(self._response(signal, batch), 200, as_json)

        return export

    def _grpc_export(self, signal: _Signal) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def export(body: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                batch = self._write(self._parse(signal, body, False)).result()
            except payload.MalformedError as error:
                counted = self._refuse(signal, str(error))
                with contextlib.suppress(sqlite3.Error):
                    counted.result()
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except sqlite3.Error as error:
                self._warn(f"{signal.name}: the store cannot take an export now: {error}")
                context.abort(grpc.StatusCode.UNAVAILABLE, f"the store cannot take it now: {error}")
            return self._response(signal, batch).SerializeToString()

        return export

    def _parse(self, signal: _Signal, body: bytes, as_json: bool) -> Batch:
        left_out = LeftOut()
        try:
            message = (payload.from_json if as_json else payload.from_protobuf)(signal.request, body)
        except payload.MalformedError:
            read = None if as_json else without_invalid_text(signal.request, body)
            if read is None:
                raise
            message, left_out = read
        batch = signal.rows(message, self._request_id_attribute)
        batch.rejected += left_out.rejected.total()
        batch.reasons += left_out.rejected + left_out.parts
        return batch

    def _response(self, signal: _Signal, batch: Batch) -> Message:
        response: Any = signal.response()
        if batch.reasons:
            setattr(response.partial_success, signal.rejected, batch.rejected)
            response.partial_success.error_message = f"not stored: {batch.explain()}"
            self._warn(f"{signal.name}: not stored: {batch.explain()}")
        return response  # type: ignore[no-any-return]

    async def _http_refuse(self, signal: _Signal, status: int, code: int, message: str, as_json: bool) -> Response:
        message = payload.excerpt(message)
        counted = self._refuse(signal, message)
        with contextlib.suppress(sqlite3.Error):  # counted before it is answered, where the store takes anything
            await asyncio.wrap_future(counted)
        answer = _http_answer(Status(code=code, message=message), status, as_json)
        if status == 503:
            answer.headers["Retry-After"] = "1"
        return answer

    def _refuse(self, signal: _Signal, message: str) -> Future[Batch]:
        """Count an export that was refused whole, with a warning; done when the count is stored."""
        batch = Batch(signal.name)
        batch.reasons["a whole export that could not be read"] += 1
        self._warn(f"{signal.name}: an export was refused: {message}")
        return self._write(batch)


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read on and drop it, so that a sender that is still sending comes to read the refusal; but not for ever."""
    drained = 0
    with contextlib.suppress(ClientDisconnect):
        async for piece in pieces:
            drained += len(piece)
            if drained > _DRAINED:
                break


def _http_answer(message: Message, status: int, as_json: bool) -> Response:
    media_type = _JSON if as_json else _PROTOBUF
    return Response(payload.to_bytes(message, as_json), status_code=status, media_type=media_type)


async def _http_refusal(request: Request, error: Exception) -> Response:
    """Answer what no route took: 404 for another path, 405 for another method."""
    assert isinstance(error, HTTPException)
    known = ", ".join(f"POST {signal.path}" for signal in _SIGNALS)
    as_json = request.headers.get("content-type", "").startswith(_JSON)
    answer = _http_answer(
        Status(code=12 if error.status_code == 405 else 5, message=f"there is {known}"), error.status_code, as_json
    )
    answer.headers.update(error.headers or {})
    return answer
