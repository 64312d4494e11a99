"""Whether somebody else measures an HTTP request: contrib's instrumentations, and frameworks that do it themselves.

Nobody announces it: a middleware that was added by hand sets no flag, and one that is there may pass a request by
(excluded URLs, suppressed instrumentation). What can be told is who stands on the stack while the response starts, and
what they hold: the names looked for are those of opentelemetry-instrumentation-{asgi,wsgi,flask,aiohttp-server} 0.66
and of FastAPI 0.165. Where such a name is missing, the request counts as measured by nobody.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, cast

from opentelemetry.metrics import NoOpMeterProvider, get_meter_provider

from clew.imports import imported

_ASGI = "opentelemetry.instrumentation.asgi"
_WSGI = "opentelemetry.instrumentation.wsgi"
FLASK = "opentelemetry.instrumentation.flask"
AIOHTTP = "opentelemetry.instrumentation.aiohttp_server"
_FASTAPI = "fastapi.telemetry._asgi"
_FASTAPI_KEY = "fastapi.telemetry"
_STABLE = "duration_histogram_new"


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


def _middleware(variables: Mapping[str, Any]) -> tuple[bool, bool]:
    return "span" in variables, getattr(variables.get("self"), _STABLE, None) is not None


def _wsgi_response(variables: Mapping[str, Any]) -> tuple[bool, bool]:
    return True, getattr(variables.get("sem_conv_opt_in_mode"), "value", None) in ("http", "http/dup")


def _flask(variables: Mapping[str, Any]) -> tuple[bool, bool]:
    return True, variables.get(_STABLE) is not None and bool(variables.get("should_trace"))


def _fastapi(variables: Mapping[str, Any]) -> tuple[bool, bool]:
    return bool(variables.get("metering")), bool(variables.get("metering"))


def _aiohttp(variables: Mapping[str, Any]) -> tuple[bool, bool]:
    return "span" in variables, getattr(sys.modules.get(AIOHTTP), _STABLE, None) is not None


_FUNCTIONS: dict[tuple[str, str], Callable[[Mapping[str, Any]], tuple[bool, bool]]] = {
    (_ASGI, "__call__"): _middleware,
    (_WSGI, "__call__"): _middleware,
    (_WSGI, "_start_response"): _wsgi_response,  # of an application that starts its response while it streams
    (FLASK, "_wrapped_app"): _flask,
    (AIOHTTP, "_middleware"): _aiohttp,
    (_FASTAPI, "__call__"): _fastapi,
}
_DJANGO = "opentelemetry.instrumentation.django.middleware.otel_middleware"
_MODULES = frozenset({*(module for module, _ in _FUNCTIONS), _DJANGO})


def _is_any_loaded() -> bool:
    loaded = sys.modules
    for module in _MODULES:  # noqa: SIM110 - a generator is three times as dear, and every request asks
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
    function = _FUNCTIONS.get((module, frame.f_code.co_name))
    if function is None:
        return
    counts_active, records_duration = function(frame.f_locals)
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
    for layer in _layers(app):
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


def _contrib_module(layer: object) -> str | None:
    kind = type(layer)
    return kind.__module__ if kind.__name__ == "OpenTelemetryMiddleware" and kind.__module__ in _MODULES else None


def _layers(app: Any) -> Iterator[Any]:
    passed: set[int] = set()
    while app is not None and id(app) not in passed:
        passed.add(id(app))
        if getattr(app, "middleware_stack", app) is None and hasattr(app, "build_middleware_stack"):
            app.middleware_stack = app.build_middleware_stack()  # as Starlette does a moment later
        yield app
        app = next(
            (
                inner
                for name in ("middleware_stack", "app", "wsgi", "wsgi_app")
                if (inner := getattr(app, name, None)) is not None
            ),
            None,
        )


def _fastapi_measures(layer: Any) -> bool:
    config = getattr(getattr(layer, "_native_telemetry", None), "config", None)
    if not isinstance(config, Mapping) or not cast("Mapping[str, Any]", config).get("metrics"):
        return False
    provider = cast("Mapping[str, Any]", config).get("meter_provider") or get_meter_provider()
    if isinstance(provider, NoOpMeterProvider) or type(provider).__name__ == "_ProxyMeterProvider":
        return False
    stack = getattr(layer, "middleware_stack", None)
    return not any(_contrib_module(inner) is not None for inner in _layers(stack))
