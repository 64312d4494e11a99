"""The layers of an application: its middlewares from the outermost on, and what each is around."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_INNER = ("middleware_stack", "app", "wsgi", "wsgi_app", "application")
"""The names under which middlewares keep what they are around."""


def layers(app: Any, *, builds_stack: bool = False) -> Iterator[Any]:
    """Yield `app` and, one after the other, what each layer is around.

    With `builds_stack` an application of Starlette's kind that has not built its middlewares yet does so now.
    """
    passed: set[int] = set()
    while app is not None and id(app) not in passed:
        passed.add(id(app))
        if builds_stack and getattr(app, "middleware_stack", app) is None and hasattr(app, "build_middleware_stack"):
            app.middleware_stack = app.build_middleware_stack()  # as Starlette does a moment later
        yield app
        app = next((inner for name in _INNER if (inner := getattr(app, name, None)) is not None), None)
