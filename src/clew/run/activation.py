"""Which integration is switched on when which module is imported."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from clew.imports import after_import

INTEGRATIONS = {
    "starlette.applications": "starlette.instrument_all",  # and with it FastAPI
    "flask.app": "flask.instrument_all",
    "django.core.handlers.wsgi": "django.instrument_all",
    "django.core.handlers.asgi": "django.instrument_all",
    "aiohttp": "aiohttp.instrument_all",
    "grpc": "grpc.instrument_all",
    "httpx": "httpx.instrument_all",
    "requests": "requests.instrument_all",
    "celery.app": "celery.instrument",
    "rq": "rq.instrument",
    "dramatiq": "dramatiq.instrument_all",
}
"""A module, and the function of `clew.integrations` that is called when it has been imported."""

SERVERS = {
    "uvicorn.config": "of_uvicorn",
    "hypercorn.utils": "of_hypercorn",
    "granian.asgi": "of_granian_asgi",
    "granian.wsgi": "of_granian_wsgi",
    "gunicorn.workers.base": "of_gunicorn",
    "waitress.server": "of_waitress",
    "wsgiref.handlers": "of_wsgiref",
}
"""A module of a server, and the function of `clew.run.servers` that is given it."""


def activate() -> None:
    """Switch on the integration of each framework when it is imported, or now if it has been; to be called once."""
    import_module("clew.integrations.concurrency").instrument()
    for name, function in INTEGRATIONS.items():
        after_import(name, _switch(function))
    for name, function in SERVERS.items():
        after_import(name, _wrap_applications(function))


def _switch(path: str) -> Callable[[ModuleType], None]:
    module, _, function = path.partition(".")

    def switch(_: ModuleType) -> None:
        integration = import_module(f"clew.integrations.{module}")
        if hasattr(integration, function):  # without it, it is still importing what it needs, and will be called again
            getattr(integration, function)()

    return switch


def _wrap_applications(function: str) -> Callable[[ModuleType], None]:
    def wrap(module: ModuleType) -> None:
        getattr(import_module("clew.run.servers"), function)(module)

    return wrap
