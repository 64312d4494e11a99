"""OTLP over HTTP with protobuf bodies."""

from __future__ import annotations

import gzip
import math
import socket
import time
import zlib
from email.utils import parsedate_to_datetime
from http.client import BadStatusLine, RemoteDisconnected
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from clew.__about__ import __version__
from clew.exporters.credentials import load_credentials
from clew.exporters.http_connections import DeadlineAdapter, time_limit
from clew.exporters.transport import Answer, excerpt
from clew.settings import OtlpSettings
from clew.settings.problems import masked_url

_RETRYABLE = (429, 502, 503, 504)
_REFUSING = (400, 413, 422)
_PATHS = (
    "/v1/metrics and so on are added to OTEL_EXPORTER_OTLP_ENDPOINT; the variables for one signal are taken as they are"
)
_TAKES_NOTHING = (401, 402, 403, 404, 405, 407, 410)
"""The answers that do not depend on what is in the request."""
_LONGEST_ANSWER = 65_536
"""In bytes; an answer is read up to here."""


class HttpTransport:
    """Posts to one URL, over connections that are kept open."""

    def __init__(self, settings: OtlpSettings) -> None:
        session = load_credentials(settings.credential_provider, requests.Session)
        self._session = requests.Session() if session is None else session
        for prefix, adapter in list(self._session.adapters.items()):
            if type(adapter) is HTTPAdapter:  # one of a plug-in's own stays as it is
                self._session.mount(prefix, DeadlineAdapter(max_retries=adapter.max_retries))
        self._url = settings.endpoint
        self._compression = settings.compression
        self._headers = {
            "content-type": "application/x-protobuf",
            "user-agent": f"clew/{__version__} {requests.utils.default_user_agent()}",
            **dict(settings.headers),
        }
        if self._compression != "none":
            self._headers["content-encoding"] = self._compression
        # given with each request: what a session has is overruled by REQUESTS_CA_BUNDLE
        self._options: dict[str, Any] = {"verify": settings.certificate} if settings.certificate else {}
        if settings.client_certificate:
            key = settings.client_key
            self._options["cert"] = (settings.client_certificate, key) if key else settings.client_certificate
        if session is None:
            self._options["auth"] = _authentication(settings.endpoint)

    def send(self, payload: bytes, timeout: float) -> Answer:
        """Make one attempt that ends within `timeout` seconds, however slowly the endpoint reads or answers."""
        deadline = time.monotonic() + timeout
        try:
            with (
                time_limit(deadline),
                self._session.post(
                    self._url,
                    data=self._compressed(payload),
                    headers=self._headers,
                    timeout=None if math.isinf(timeout) else timeout,
                    allow_redirects=False,
                    stream=True,
                    **self._options,
                ) as response,
            ):
                body = response.raw.read(_LONGEST_ANSWER, decode_content=True) or b""
                return _answer(response, body)
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
            return Answer(_late(error, timeout), retry=True)
        except requests.exceptions.SSLError as error:
            if time.monotonic() >= deadline:
                return Answer(_late(error, timeout), retry=True)
            text = _innermost(error)
            return Answer(f"the TLS connection failed: {text}", may_be_other_protocol="CERTIFICATE" not in text.upper())
        except requests.exceptions.ConnectionError as error:
            if time.monotonic() >= deadline:
                return Answer(_late(error, timeout), retry=True)
            return Answer(_innermost(error), retry=True, may_be_other_protocol=not _is_absent(error))
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, OSError) as error:
            return Answer(_innermost(error))
        except Exception as error:  # what urllib3 raises while the body is read
            return Answer(_innermost(error), retry=True)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _compressed(self, payload: bytes) -> bytes:
        if self._compression == "gzip":
            return gzip.compress(payload, 6)
        return zlib.compress(payload) if self._compression == "deflate" else payload


def _authentication(url: str) -> Any:
    """Return the user and password of the URL, or else an authentication that adds nothing, where .netrc would."""
    parts = urlsplit(url)
    if parts.username is not None:
        return unquote(parts.username), unquote(parts.password or "")
    return lambda request: request  # pyright: ignore[reportUnknownLambdaType, reportUnknownVariableType]


def _answer(response: requests.Response, body: bytes) -> Answer:
    media = response.headers.get("content-type", "").lower()
    status = response.status_code
    if 200 <= status < 300:
        return Answer(body=body, media=media)
    reason = f"HTTP {status} {response.reason or ''}".rstrip()
    if 300 <= status < 400:
        target = masked_url(response.headers.get("location", "nowhere"))
        return Answer(f"{reason} to {target}; redirects are not followed")
    explanation = _status_message(body) if "protobuf" in media else excerpt(body) if body else ""
    reason = f"{reason}: {explanation}" if explanation else reason
    if status == 404:
        reason = f"{reason}; is the path the right one? {_PATHS}"
    retry = status in _RETRYABLE
    return Answer(
        reason,
        retry=retry,
        pause=_retry_after(response.headers.get("retry-after")),
        refused=status in _REFUSING,
        retry_without_zeros=not retry and status not in _TAKES_NOTHING,
    )


def _status_message(body: bytes) -> str:
    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

    try:
        return str(Status.FromString(body).message)
    except Exception:  # protobuf's DecodeError, which differs between its implementations
        return excerpt(body)


def _retry_after(value: str | None) -> float | None:
    """Read the header Retry-After: seconds, or a date."""
    if not value:
        return None
    try:
        pause = float(value)
    except ValueError:
        try:
            pause = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, pause) if math.isfinite(pause) else None


def _late(error: BaseException, timeout: float) -> str:
    found = _bottom(error)
    if "was not found in time" in str(found):
        return f"{found}, which is {timeout:.3g} s"
    return f"no answer within {timeout:.3g} s"


def _is_absent(error: BaseException) -> bool:
    """Tell whether nobody listens at the endpoint."""
    return isinstance(_bottom(error), (ConnectionRefusedError, socket.gaierror)) or "NewConnectionError" in repr(error)


def _innermost(error: BaseException) -> str:
    """Return the text of the error at the bottom, which says "Connection refused" without the layers around it."""
    error = _bottom(error)
    if isinstance(error, BadStatusLine) and not isinstance(error, RemoteDisconnected):
        return f"it answered with something that is not HTTP: {str(error).strip()}"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text or type(error).__name__


def _bottom(error: BaseException) -> BaseException:
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(inner, BaseException):
            inner = next((argument for argument in error.args if isinstance(argument, BaseException)), None)
        if inner is None:
            break
        error = inner
    return error
