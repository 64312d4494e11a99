"""What the functions `instrument_all` share: the middleware of an application that has none of its own."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from opentelemetry.context import get_current

from clew.integrations._shared.layers import layers
from clew.integrations._shared.server_request import ServerRequest
from clew.propagation.cell import cell_in

T = TypeVar("T")

_DEFAULT = "_clew_default_middleware"
_DJANGO = "clew.integrations.django."
_PATCHED = "_clew_patched"


class Middleware:
    """A middleware of ours around a whole application, by which `has_own` knows it."""


def default_of(app: Any, make: Callable[[], T]) -> T | None:
    """Return the middleware that `make` makes for `app`, the same each time.

    None where it has one of its own, and where it runs inside another application that has.
    """
    if is_inside_of_ours():
        return None
    own: dict[str, Any] = app.__dict__
    if _DEFAULT not in own:
        own[_DEFAULT] = None if has_own(app) else make()
    return own[_DEFAULT]  # type: ignore[no-any-return]


def has_none_by_default(app: Any) -> None:
    """Give `app` no middleware by default: it has been instrumented by itself."""
    vars(app)[_DEFAULT] = None


def is_inside_of_ours() -> bool:
    """Tell whether this code runs inside a request that is being served: an application mounted in another one."""
    cell = cell_in(get_current())
    return isinstance(cell, ServerRequest) and not cell.ended and cell.around is None


def has_own(app: Any) -> bool:
    """Tell whether an application, or one of the layers that it is made of, has a middleware of ours."""
    return any(_is_ours(layer) for layer in layers(app))


def _is_ours(layer: Any) -> bool:
    if isinstance(layer, Middleware) or hasattr(layer, "_clew_request_middleware"):
        return True
    added: Any = getattr(layer, "user_middleware", ())  # of Starlette, which makes a stack of it later
    if isinstance(added, list) and any(_is_kind_of_ours(getattr(one, "cls", None)) for one in added):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return True
    if type(layer).__module__.startswith("django.") and hasattr(layer, "get_response"):
        listed: Any = getattr(getattr(sys.modules.get("django.conf"), "settings", None), "MIDDLEWARE", ())
        return any(str(name).startswith(_DJANGO) for name in listed or ())
    return False


def _is_kind_of_ours(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Middleware)


def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a function of a module or a method of a class by what `make` makes of it, once."""
    original = vars(owner)[name] if isinstance(owner, type) and name in vars(owner) else getattr(owner, name)
    if getattr(original, _PATCHED, None) is not None:
        return
    replacement = functools.wraps(original)(make(original))
    setattr(replacement, _PATCHED, original)
    setattr(owner, name, replacement)
