"""Whether somebody else measures an HTTP request: contrib's instrumentations, and frameworks that do it themselves.

Nobody announces it. What they offer is used: the classes of their middlewares and the URLs that these exclude, the
application in an ASGI scope, FastAPI's mark there. But a middleware that was added by hand sets no flag, the Context
has a span of theirs only where spans are recorded, our propagator is called only where it is among the configured ones,
and one that is there may pass a request by. Whether this request is being measured shows in one place alone: in the
variables of the functions that run for it, on the stack while the response starts. So these are read, by their names.

What it costs when they move: where a name is missing, the request counts as measured by nobody. Then it is recorded by
them and by us, in two scopes (theirs, and ``clew.integrations.…``), and a sum over scopes counts it twice, until the
name is put right in `READ` or `ATTRIBUTES`, or ``metrics=False`` is given to our middleware. Nothing else depends on
it: no request fails, and no ID is lost. A test beside contrib's instrumentations (0.66) and FastAPI (0.165) looks for
each of the names, so that a version that moves one is found when it is tried.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, cast

from opentelemetry.metrics import NoOpMeterProvider, get_meter_provider

from clew.imports import imported
from clew.integrations._shared.layers import layers

_ASGI = "opentelemetry.instrumentation.asgi"
_WSGI = "opentelemetry.instrumentation.wsgi"
FLASK = "opentelemetry.instrumentation.flask"
AIOHTTP = "opentelemetry.instrumentation.aiohttp_server"
_FASTAPI = "fastapi.telemetry._asgi"
_DJANGO = "opentelemetry.instrumentation.django.middleware.otel_middleware"
_FASTAPI_KEY = "fastapi.telemetry"
_STABLE = "duration_histogram_new"

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    _ASGI: (_STABLE, "excluded_urls", "is_http_instrumentation_enabled", "get_host_port_url_tuple"),
    _WSGI: (_STABLE,),
    AIOHTTP: (_STABLE, "_excluded_urls"),
    _DJANGO: ("_DjangoMiddleware", "_duration_histogram_new", "_otel_start_time"),
    _FASTAPI: (_FASTAPI_KEY,),
    "fastapi.applications": ("_native_telemetry",),
}
"""What is read of their modules, of their middlewares and of what these put on a request, by module."""


@dataclass(slots=True)
class Measurers:
    """Who else measures a request."""

    duration: str | None = None
    """The module that records ``http.server.request.duration``, the stable one, or None."""
    active: bool = False
    """Whether somebody counts ``http.server.active_requests``, which contrib does in its old convention too."""
    passes_by: bool = False
    """Whether somebody who could measure is there and lets this request pass (an excluded URL, say)."""


NOBODY = Measurers()
"""Where nothing that measures has been imported."""


def _middleware(middleware: object, span: object) -> tuple[bool, bool]:
    return span is not None, getattr(middleware, _STABLE, None) is not None


def _wsgi_response(mode: object) -> tuple[bool, bool]:
    return True, getattr(mode, "value", None) in ("http", "http/dup")


def _flask(histogram: object, should_trace: object) -> tuple[bool, bool]:
    return True, histogram is not None and bool(should_trace)


def _fastapi(metering: object) -> tuple[bool, bool]:
    return bool(metering), bool(metering)


def _aiohttp(span: object) -> tuple[bool, bool]:
    return span is not None, getattr(sys.modules.get(AIOHTTP), _STABLE, None) is not None


READ: dict[tuple[str, str], tuple[tuple[str, ...], Callable[..., tuple[bool, bool]]]] = {
    (_ASGI, "__call__"): (("self", "span"), _middleware),
    (_WSGI, "__call__"): (("self", "span"), _middleware),
    # of an application that starts its response while it streams
    (_WSGI, "_start_response"): (("sem_conv_opt_in_mode",), _wsgi_response),
    (FLASK, "_wrapped_app"): ((_STABLE, "should_trace"), _flask),
    (AIOHTTP, "_middleware"): (("span",), _aiohttp),
    (_FASTAPI, "__call__"): (("metering",), _fastapi),
}
"""The functions that are looked for on the stack, by module and name: which of their variables are read, and what tells
of these whether active requests are counted, and whether durations are recorded."""

_MODULES = frozenset({*(module for module, _ in READ), _DJANGO})


def _is_any_loaded() -> bool:
    loaded = sys.modules
    for module in _MODULES:  # noqa: SIM110 - a generator takes three times as long, and every request asks
        if module in loaded:
            return True
    return False


def look_at_stack(frame: FrameType | None) -> Measurers:
    """Look at `frame` and all that called it."""
    if not _is_any_loaded():
        return NOBODY
    seen = Measurers()
    while frame is not None:
        _look_at(frame, seen)
        frame = frame.f_back
    return seen


def look_at_traceback(traceback: TracebackType | None) -> Measurers:
    """Look at everything that an exception has left on its way to our middleware."""
    seen = Measurers()
    while traceback is not None:
        _look_at(traceback.tb_frame, seen)
        traceback = traceback.tb_next
    return seen


def _look_at(frame: FrameType, seen: Measurers) -> None:
    module = frame.f_globals.get("__name__")
    if module not in _MODULES:
        return
    read = READ.get((module, frame.f_code.co_name))
    if read is None:
        return
    (names, tell), variables = read, frame.f_locals
    counts_active, records_duration = tell(*(variables.get(name) for name in names))
    seen.active = seen.active or counts_active
    seen.passes_by = seen.passes_by or not counts_active
    if counts_active and records_duration:
        seen.duration = module


def look_inside(app: Any, scope: Mapping[str, Any] | None = None) -> Measurers:
    """Look at the applications that `app` is made of, layer by layer, for those that would measure a request.

    Those that let the one of an ASGI `scope` pass are left out.
    """
    if not _is_any_loaded():
        return NOBODY
    seen = Measurers()
    for layer in layers(app, builds_stack=True):
        if hasattr(layer, "look_for_measurers"):
            return layer.look_for_measurers()  # type: ignore[no-any-return]
        module = _contrib_module(layer)
        if module is not None:
            if scope is not None and _is_passed_by(layer, module, scope):
                continue
            seen.active = True
            if getattr(layer, _STABLE, None) is not None:
                seen.duration = module
        elif _fastapi_measures(layer) and not fastapi_passes_by(scope):
            seen.active, seen.duration = True, _FASTAPI
        elif getattr(layer, "__module__", None) == FLASK and getattr(layer, "__name__", None) == "_wrapped_app":
            seen.active = True
    return seen


def _is_passed_by(layer: Any, module: str, scope: Mapping[str, Any]) -> bool:
    """Tell whether contrib's middleware for ASGI measures nothing of this request; asked as it asks itself."""
    names = vars(sys.modules[module])
    excluded: Any = getattr(layer, "excluded_urls", None)
    try:
        if not names["is_http_instrumentation_enabled"]():
            return True
        return bool(excluded) and bool(excluded.url_disabled(names["get_host_port_url_tuple"](scope)[2]))
    except Exception:  # of a version that is not known
        return False


def fastapi_passes_by(scope: Mapping[str, Any] | None) -> bool:
    """Tell whether a FastAPI around this place has been told to exclude the request; it leaves a None in the scope."""
    return scope is not None and scope.get(_FASTAPI_KEY, scope) is None


def aiohttp_measures(request: Any) -> Measurers:
    """Tell what contrib's middleware for aiohttp, which is inside of ours, will measure of `request`."""
    module = imported(AIOHTTP)
    excluded: Any = getattr(module, "_excluded_urls", None)
    if module is None or (excluded is not None and excluded.url_disabled(request.url.path)):
        return Measurers(passes_by=module is not None)
    return Measurers(duration=None if getattr(module, _STABLE, None) is None else AIOHTTP, active=True)


def django_counts(request: Any) -> bool:
    """Tell whether contrib's middleware for Django, around this place, counts `request` among the active ones."""
    return hasattr(request, "_otel_start_time")


def django_measures(request: Any) -> bool:
    """Tell whether contrib's middleware for Django has `request`, and records the stable duration."""
    middleware = getattr(sys.modules.get(_DJANGO), "_DjangoMiddleware", None)
    return django_counts(request) and getattr(middleware, "_duration_histogram_new", None) is not None


def django_would_count(middlewares: Iterable[object]) -> bool:
    """Tell whether contrib's middleware is among those in Django's setting ``MIDDLEWARE``."""
    return f"{_DJANGO}._DjangoMiddleware" in middlewares


def _contrib_module(layer: object) -> str | None:
    kind = type(layer)
    return kind.__module__ if kind.__name__ == "OpenTelemetryMiddleware" and kind.__module__ in _MODULES else None


def _fastapi_measures(layer: Any) -> bool:
    config = getattr(getattr(layer, "_native_telemetry", None), "config", None)
    if not isinstance(config, Mapping) or not cast("Mapping[str, Any]", config).get("metrics"):
        return False
    provider = cast("Mapping[str, Any]", config).get("meter_provider") or get_meter_provider()
    if isinstance(provider, NoOpMeterProvider) or type(provider).__name__ == "_ProxyMeterProvider":
        return False
    stack = getattr(layer, "middleware_stack", None)
    return not any(_contrib_module(inner) is not None for inner in layers(stack, builds_stack=True))
