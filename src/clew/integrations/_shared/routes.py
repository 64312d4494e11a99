"""``http.route`` from what a router of Starlette's kind leaves in the ASGI scope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from clew.interpreter.interruptions import let_through

_FULL = 2  # starlette.routing.Match.FULL
_MOUNT_END = "/{path}"
_DEEPEST = 32


def route_template(scope: Mapping[str, Any]) -> str | None:
    """Return the templates of every mount that the request crossed plus its route's own, or None.

    Never made of ``root_path`` or ``path``: these hold what the client sent.
    """
    try:
        return _template(scope)
    except Exception as error:  # a router of another kind, or of a version that is not known
        let_through(error)
        return None


def _template(scope: Mapping[str, Any]) -> str | None:
    route = scope.get("route")
    if route is None:
        return _found_again(scope)
    own = _own_template(scope, route)
    if own is None:
        return None
    root_path: str = scope.get("root_path", "")
    outermost: str = scope.get("app_root_path", root_path)
    if _is_mount(route):
        if getattr(route, "routes", None):  # a router that found nothing
            return None
        crossed = _crossed(scope, outermost, root_path)  # includes this mount itself
        return None if crossed is None else crossed + _MOUNT_END
    if root_path == outermost:
        return own
    crossed = _crossed(scope, outermost, root_path)
    return None if crossed is None else crossed + own


def _found_again(scope: Mapping[str, Any]) -> str | None:
    """Return the template of a route that its router does not tell: FastAPI's routes that are no path operations."""
    endpoint: Any = scope.get("endpoint")
    if endpoint is None:
        return None
    root_path: str = scope.get("root_path", "")
    outermost: str = scope.get("app_root_path", root_path)
    fastapi: Any = scope.get("fastapi")
    nested: Any = None
    if isinstance(fastapi, Mapping):
        effective: Any = cast("Mapping[str, Any]", fastapi).get("effective_route_context")
        nested = getattr(effective, "starlette_route", None) or getattr(effective, "original_route", None)
    if nested is not None and getattr(nested, "endpoint", None) is endpoint:
        crossed = _crossed(scope, outermost, root_path)
        own: Any = getattr(nested, "path_format", None)
        return None if crossed is None or not isinstance(own, str) else crossed + own
    routes: Any = getattr(scope.get("router"), "routes", None)
    position: dict[str, Any] = {**scope, "root_path": outermost, "path_params": {}}
    template = ""
    for _ in range(_DEEPEST):
        route, child_scope = _full_match(routes, position)
        if route is None:
            return None
        found = str(getattr(route, "path_format", ""))
        routes = getattr(route, "routes", None)
        if getattr(route, "endpoint", None) is endpoint:
            return template + found
        if not routes:
            return template + found if child_scope.get("endpoint") is endpoint else None
        position.update(child_scope)
        template += found.removesuffix(_MOUNT_END)
    return None


def _full_match(routes: Any, position: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    for route in routes or ():
        match, child_scope = route.matches(position)
        if match.value == _FULL:
            return _included_mount(route, position) or (route, child_scope)
    return None, {}


def _included_mount(router: Any, position: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Return the mount that a router which FastAPI includes in another leads to, if it does: its prefixes in front."""
    for context in getattr(router, "effective_route_contexts", tuple)():
        route = getattr(context, "starlette_route", None)
        if route is not None and _is_mount(route):
            match, child_scope = route.matches(position)
            if match.value == _FULL:
                return route, child_scope
    return None


def _own_template(scope: Mapping[str, Any], route: Any) -> str | None:
    fastapi: Any = scope.get("fastapi")
    if isinstance(fastapi, Mapping):  # a router that is included under a prefix
        effective: Any = cast("Mapping[str, Any]", fastapi).get("effective_route_context")
        if effective is not None and getattr(effective, "original_route", None) is route:
            nested = getattr(effective, "starlette_route", None)
            template = getattr(nested, "path_format", None) or getattr(effective, "path_format", None)
            return template if isinstance(template, str) else None
    template = getattr(route, "path_format", None)
    return template if isinstance(template, str) else None


def _is_mount(route: Any) -> bool:
    return hasattr(route, "routes") and hasattr(route, "app") and not hasattr(route, "endpoint")


def _crossed(scope: Mapping[str, Any], outermost: str, root_path: str) -> str | None:
    """Return the templates of the mounts that lead from `outermost` to `root_path`, matched as the routers did."""
    routes: Any = getattr(scope.get("router"), "routes", None)
    position: dict[str, Any] = {**scope, "root_path": outermost, "path_params": {}}
    template = ""
    while position["root_path"] != root_path:
        if not routes:
            return None
        before = position["root_path"]
        route, child_scope = _full_match(routes, position)
        if route is None:
            return None
        position.update(child_scope)
        routes = getattr(route, "routes", None)
        if position["root_path"] == before:  # a host route, a mount at the root, or a router included in another
            is_at_root = _is_mount(route) and getattr(route, "path_format", None) == _MOUNT_END
            if not routes or not (is_at_root or hasattr(route, "host")):
                return None
            continue
        if not position["root_path"].startswith(before) or not isinstance(getattr(route, "path_format", None), str):
            return None
        template += route.path_format.removesuffix(_MOUNT_END)
    return template
