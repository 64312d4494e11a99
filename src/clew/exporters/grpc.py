"""OTLP over gRPC."""

from __future__ import annotations

import math
import os
import threading
from typing import Any

import grpc
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from clew.__about__ import __version__
from clew.exporters.credentials import load_credentials
from clew.exporters.transport import Answer
from clew.interpreter import forks
from clew.interpreter.weak import WeakCollection
from clew.settings import OtlpSettings

_SERVICES = {
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}
_RETRYABLE = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
)
_DEAD = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
"""After these the channel is made anew: gRPC would wait long for an answer on one whose other end is gone."""
_REFUSING = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
_PERHAPS_OTHER_PROTOCOL = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
_NOBODY = ("Connection refused", "DNS resolution failed", "timed out", "CERTIFICATE_VERIFY_FAILED")
"""What gRPC says where nobody listens, or where the right protocol is spoken."""
_TAKES_NOTHING = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
)
"""The answers that do not depend on what is in the request."""
_COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}
_OPTIONS = (
    ("grpc.primary_user_agent", f"clew/{__version__}"),
    # a channel of ours alone: one made anew after a failure tries at once, whatever others know of the endpoint
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


_FORKED = (
    "this process was forked while a gRPC call was under way, after which gRPC would crash it; "
    "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf does not have this problem"
)
_PAUSE_SECONDS = (0.05, 1.0)
"""How long a fork waits for a call to end by itself, and then for one that was cancelled."""

_transports: WeakCollection[GrpcTransport] = WeakCollection()
_broken = False


class GrpcTransport:
    """Calls ``Export`` of one signal's service, with bytes.

    A child that is forked during a call and uses gRPC is ended by gRPC with SIGABRT (seen with grpcio 1.85). So a fork
    waits for the call, cancels it if it takes long, and the parent makes it again; where even that fails, the child
    does not use gRPC.
    """

    def __init__(self, settings: OtlpSettings) -> None:
        self._settings = settings
        self._metadata = settings.headers
        self._credentials: Any = None
        if not settings.insecure:
            provided = load_credentials(settings.credential_provider, grpc.ChannelCredentials)
            self._credentials = provided or grpc.ssl_channel_credentials(
                _content(settings.certificate), _content(settings.client_key), _content(settings.client_certificate)
            )
        self._calling = threading.Lock()
        self.paused = False
        self._was_cancelled = False
        _transports.add(self)
        if not _broken:
            self._open()

    def _open(self) -> None:
        target, compression = self._settings.endpoint, _COMPRESSION[self._settings.compression]
        self._channel: Any
        if self._credentials is None:
            self._channel = grpc.insecure_channel(target, _OPTIONS, compression)
        else:
            self._channel = grpc.secure_channel(target, self._credentials, _OPTIONS, compression)
        self._call: Any = self._channel.unary_unary(f"/{_SERVICES[self._settings.signal]}/Export")

    def send(self, payload: bytes, timeout: float) -> Answer:
        """Make one attempt within `timeout` seconds."""
        if _broken:
            return Answer(_FORKED)
        with self._calling:
            return self._send(payload, timeout)

    def _send(self, payload: bytes, timeout: float) -> Answer:
        try:
            # the blocking call: it needs no thread of its own, which at the interpreter's end could not be started
            body = self._call(payload, timeout=None if math.isinf(timeout) else timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            return self._failure(error, timeout)
        except ValueError as error:  # a call on a closed channel, and metadata that gRPC does not allow
            return Answer(str(error))
        return Answer(body=body)

    def close(self) -> None:
        """Close the channel, and end a call under way."""
        if not _broken:
            self._channel.close()

    def pause(self) -> None:
        """Wait until no call is under way, before a fork."""
        short, long = _PAUSE_SECONDS
        self.paused = self._calling.acquire(timeout=short)
        if not self.paused:
            self._was_cancelled = True
            self._channel.close()
            self.paused = self._calling.acquire(timeout=long)

    def resume(self) -> None:
        """Allow calls again in the parent, after a fork."""
        if self.paused:
            self.paused = False
            self._calling.release()

    @property
    def calling(self) -> bool:
        """Whether a call was under way when this process was forked."""
        return self._calling.locked() and not self.paused

    def _failure(self, error: Any, timeout: float) -> Answer:
        code = error.code()
        pause = 0.0 if self._was_cancelled else _asked_pause(error)
        self._was_cancelled = False
        if code in _DEAD:
            self._channel.close()
            self._open()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Answer(f"no answer within {timeout:.3g} s", retry=True, pause=pause)
        retry = code in _RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and pause is not None)
        details = str(error.details())
        may_be_other_protocol = code in _PERHAPS_OTHER_PROTOCOL and not any(text in details for text in _NOBODY)
        return Answer(
            f"gRPC {code.name}: {details}",
            retry=retry,
            pause=pause,
            refused=code in _REFUSING and not retry,
            may_be_other_protocol=may_be_other_protocol,
            retry_without_zeros=not retry and code not in _TAKES_NOTHING,
        )


def _before_fork() -> None:
    for transport in _transports:
        transport.pause()


def _after_in_parent() -> None:
    for transport in _transports:
        transport.resume()


def _after_in_child() -> None:
    global _broken
    _broken = _broken or any(transport.calling for transport in _transports)
    _transports.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent)
forks.after_in_child(_after_in_child)


def _asked_pause(error: Any) -> float | None:
    """Return the seconds that the endpoint asks to wait (``RetryInfo`` in the details of its status)."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            try:
                for detail in Status.FromString(value).details:
                    info = RetryInfo()
                    if detail.Unpack(info):
                        return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
            except Exception:  # protobuf's DecodeError, which differs between its implementations
                return None
    return None


def _content(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()
