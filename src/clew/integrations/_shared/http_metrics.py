"""The HTTP server metrics of the stable semantic conventions, for requests that nobody else measures.

``http.server.request.duration`` (histogram, seconds) and ``http.server.active_requests`` (up-down counter, requests):
OpenTelemetry instruments of the MeterProvider that `clew` records into, in shards where that one is `clew`'s own.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from opentelemetry.context import Context
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.network_attributes import NETWORK_PROTOCOL_VERSION
from opentelemetry.semconv.attributes.url_attributes import URL_SCHEME
from opentelemetry.semconv.metrics.http_metrics import HTTP_SERVER_REQUEST_DURATION
from opentelemetry.semconv.schemas import Schemas

from clew.__about__ import __version__
from clew.diagnostics import report_failure
from clew.failures import error_type_of
from clew.integrations._shared.other_instrumentations import (
    FLASK,
    NOBODY,
    Measurers,
    fastapi_passes_by,
    look_at_stack,
    look_at_traceback,
    look_inside,
)
from clew.metrics import reentry
from clew.operations import pipeline
from clew.operations.bind import bind_instrument
from clew.operations.pipeline import Pipeline

if TYPE_CHECKING:
    from clew.integrations._shared.server_options import Metrics
    from clew.metrics.lookup import InstrumentBinding

T = TypeVar("T")

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""In seconds: the ones that the conventions advise."""

_ACTIVE_REQUESTS = "http.server.active_requests"
_METHODS = "CONNECT,DELETE,GET,HEAD,OPTIONS,PATCH,POST,PUT,TRACE"

Record = Callable[[float, Mapping[str, str | int], Context | None], None]
"""Takes a value, attributes, and a Context or None for the current one."""


class PerPipeline(Generic[T]):
    """What `make` makes of the current pipeline, instruments mostly: made anew for each one."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[Pipeline], T]) -> None:
        self._make = make
        self._made: tuple[Pipeline, T] | None = None

    def get(self) -> tuple[Pipeline, T] | None:
        """Return the current pipeline and what was made of it, or None where nothing is recorded."""
        current = pipeline.current
        if current is None:
            return None
        made = self._made
        if made is None or made[0] is not current:
            if reentry.is_inside():
                return None
            self._made = made = (current, self._make(current))  # two threads at a time make the same
        return made


class HttpInstruments:
    """The two instruments of one scope."""

    __slots__ = ("_records", "_scope")

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._records = PerPipeline(self._make)

    def begin(
        self,
        metrics: Metrics,
        *,
        method: str,
        scheme: str,
        version: str | None,
        app: Any = None,
        scope: Mapping[str, Any] | None = None,
        is_active_counted: bool = True,
    ) -> HttpMeasurement | None:
        """Begin to measure one request, or return None where nothing is recorded; never raises.

        Args:
            metrics: What the middleware was told: ``"auto"`` for a request that nobody else measures.
            method: Of the request.
            scheme: Of its URL.
            version: Of its protocol (``1.1``, ``HTTP/1.1``).
            app: The application inside, where its parts can be looked at.
            scope: The one of ASGI, where it is one; an outer application that it names is looked at too.
            is_active_counted: Whether nobody else is known to count the request among the active ones.
        """
        if metrics is False:
            return None
        try:
            found = self._records.get()
            if found is None:
                return None
            current, (duration, active) = found
            return HttpMeasurement(
                current,
                duration,
                active,
                method=method,
                scheme=scheme,
                version=version,
                is_auto=metrics == "auto",
                app=app,
                scope=scope,
                is_active_counted=is_active_counted,
            )
        except Exception as error:
            not_measured(error)
            return None

    def _make(self, current: Pipeline) -> tuple[Record, Record]:
        meter = current.meter_provider.get_meter(self._scope, __version__, schema_url=Schemas.V1_36_0.value)
        duration = meter.create_histogram(
            HTTP_SERVER_REQUEST_DURATION,
            unit="s",
            description="Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=BOUNDS,
        )
        active = meter.create_up_down_counter(
            _ACTIVE_REQUESTS, unit="{request}", description="Number of active HTTP server requests."
        )
        return (
            _fast_path(bind_instrument(duration, BOUNDS, current)) or duration.record,
            _fast_path(bind_instrument(active, None, current)) or active.add,
        )


def _fast_path(binding: InstrumentBinding | None) -> Record | None:
    """Return what records into the shards of an instrument, where it has any: the SDK's own costs ten times as much."""
    if binding is None:
        return None
    shard_of = binding.shard

    def record(value: float, attributes: Mapping[str, str | int], context: Context | None) -> None:
        shard = shard_of(attributes)
        shard.series.add(shard, value, context)

    return record


class HttpMeasurement:
    """The measurement of one HTTP request, from its start to its end; the end counts once.

    With `is_auto` it is told nothing by those who measure themselves, so it looks for them: around and inside of our
    middleware.
    """

    __slots__ = (
        "_active",
        "_active_attributes",
        "_around",
        "_attributes",
        "_duration",
        "_inside",
        "_is_auto",
        "_pipeline",
        "_response",
        "_scope",
        "_started",
    )

    def __init__(
        self,
        pipeline: Pipeline,
        duration: Record,
        active: Record,
        *,
        method: str,
        scheme: str,
        version: str | None,
        is_auto: bool,
        app: Any,
        scope: Mapping[str, Any] | None,
        is_active_counted: bool,
    ) -> None:
        self._pipeline = pipeline
        self._duration: Record | None = duration
        self._active: Record | None = active
        self._active_attributes: dict[str, str | int] = {
            HTTP_REQUEST_METHOD: known_method(method),
            URL_SCHEME: scheme,
        }
        self._attributes = dict(self._active_attributes)
        number = version.removeprefix("HTTP/") if version else None
        if number:
            self._attributes[NETWORK_PROTOCOL_VERSION] = number
        self._is_auto = is_auto
        self._scope = scope
        self._response: Measurers | None = None
        if is_auto:
            self._around = look_at_stack(inspect.currentframe())
            # an application around us is looked at too: where a task begins in between, the frames end
            self._inside = look_inside((None if scope is None else scope.get("app")) or app, scope)
            if self._around.active or self._inside.active or not is_active_counted:
                self._active = None
        if self._active is not None:
            self._active(1, self._active_attributes, None)
        self._started = perf_counter()

    def response_starts(self) -> None:
        """Look who is there while the response starts; called in the midst of that."""
        if self._is_auto:
            self._response = seen = look_at_stack(inspect.currentframe())
            if seen is not NOBODY and fastapi_passes_by(self._scope):
                seen.passes_by = True

    def end(
        self,
        *,
        status: int | None,
        route: str | None,
        error: BaseException | None = None,
        is_failure: bool = True,
        is_measured: bool = False,
        context: Context | None = None,
    ) -> None:
        """Record the duration, unless somebody else did; only where the request began: not in a forked child.

        `is_measured` tells that somebody else did, where that is known; they are looked for all the same.
        """
        seconds = perf_counter() - self._started
        duration, active = self._duration, self._active
        self._duration = self._active = None
        if not self._pipeline.is_open:
            return
        if active is not None:
            active(-1, self._active_attributes, context)
        if duration is None or (self._is_auto and (is_measured or self._is_measured(error))):
            return
        attributes = self._attributes
        if route is not None:
            attributes[HTTP_ROUTE] = route
        if status is not None:
            attributes[HTTP_RESPONSE_STATUS_CODE] = status
        if error is not None and is_failure:
            attributes[ERROR_TYPE] = error_type_of(type(error))
        elif status is not None and status >= 500:
            attributes[ERROR_TYPE] = str(status)
        duration(max(seconds, 0.0), attributes, context)

    def _is_measured(self, error: BaseException | None) -> bool:
        seen = self._response
        if seen is None:
            seen = look_at_traceback(None if error is None else error.__traceback__)
            if self._around.duration is not None:
                return True
        if seen.duration is not None:
            return True
        if self._around.duration not in (None, FLASK):  # contrib's Flask decides when the response starts
            return True
        # what measures in another task is on no stack that we can see
        return self._inside.duration is not None and not seen.passes_by


def not_measured(error: Exception) -> None:
    """Report that an HTTP request could not be measured."""
    report_failure("http.not_measured", error, "An HTTP request could not be measured")


def known_method(method: str) -> str:
    """Return the method of a request, or ``_OTHER`` for one that is not known, of which there may be any number."""
    return method if method in _known_methods() else "_OTHER"


@cache
def _known_methods() -> frozenset[str]:
    named = os.environ.get("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "").strip() or _METHODS
    return frozenset(method.strip() for method in named.split(",") if method.strip())
