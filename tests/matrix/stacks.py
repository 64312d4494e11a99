"""The rows of the matrix: servers as users start them, each with the frameworks that it serves."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

APPLICATIONS = Path(__file__).with_name("applications")
_LOGGING = str(APPLICATIONS / "logging.json")


@dataclass(frozen=True)
class Stack:
    """A server and what it serves.

    Attributes:
        server: Its name.
        framework: The framework, or ``plain``.
        protocol: ``asgi``, ``wsgi``, ``aiohttp`` or ``grpc``.
    """

    server: str
    framework: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.server}-{self.framework}"

    @property
    def packages(self) -> tuple[str, ...]:
        """What has to be installed."""
        server = {"wsgiref": (), "runserver": ("django",), "granian-wsgi": ("granian",)}.get(
            self.server, (self.server,)
        )
        return (*server, *({self.framework} - {"plain", "sync", "aio", "server"}))

    def command(self, port: int) -> list[str]:
        """Return the command that serves it on a port of 127.0.0.1, with one process or one worker."""
        application = f"{self.protocol}_{self.framework}"
        return [sys.executable, *_COMMANDS[self.server](self, application, str(port))]

    @property
    def has_websockets(self) -> bool:
        return self.protocol in ("asgi", "aiohttp") and self.framework != "django"

    @property
    def answers_500_itself(self) -> bool:
        """Whether it is the server that answers an exception: it alone is outside our middleware."""
        return self.framework == "plain"

    @property
    def has_access_lines_inside(self) -> bool:
        """Whether the server logs a request while its Context is still there: not when all is over."""
        return self.access_logger is not None and self.server not in ("granian", "granian-wsgi", "aiohttp")

    @property
    def logs_exceptions(self) -> bool:
        """Whether somebody logs an unhandled exception by `logging`, with the exception itself.

        wsgiref prints it, and granian logs it as text.
        """
        unlogged = {"wsgiref": {"plain"}, "granian": {"plain", "starlette", "fastapi"}, "granian-wsgi": {"plain"}}
        return self.framework not in unlogged.get(self.server, set())

    @property
    def access_logger(self) -> str | None:
        """The `logging` logger of the server's access lines, or None where it writes them in another way, or none."""
        return _ACCESS_LOGGERS.get(self.server)


def _granian(stack: Stack, name: str, port: str) -> Iterable[str]:
    yield from ("-m", "granian", f"{name}:application", "--port", port, "--interface", stack.protocol)
    yield from ("--log-config", _LOGGING, "--access-log")


_COMMANDS: dict[str, Callable[[Stack, str, str], Iterable[str]]] = {
    "uvicorn": lambda stack, name, port: (
        *("-m", "uvicorn", f"{name}:application", "--port", port, "--log-config", _LOGGING),
    ),
    "hypercorn": lambda stack, name, port: (
        *("-m", "hypercorn", f"{name}:application", "--bind", f"127.0.0.1:{port}"),
        *("--log-config", f"json:{_LOGGING}", "--access-logfile", "-"),
    ),
    "granian": _granian,
    "granian-wsgi": _granian,
    "gunicorn": lambda stack, name, port: (
        *("-m", "gunicorn", f"{name}:application", "--bind", f"127.0.0.1:{port}", "--threads", "2"),
        *("--log-config-json", _LOGGING, "--access-logfile", "-", "--no-control-socket"),
    ),
    "waitress": lambda stack, name, port: ("serve_wsgi.py", "waitress", name, port),
    "wsgiref": lambda stack, name, port: ("serve_wsgi.py", "wsgiref", name, port),
    "werkzeug": lambda stack, name, port: ("serve_wsgi.py", "werkzeug", name, port),
    "runserver": lambda stack, name, port: (
        *("-m", "django", "runserver", "--noreload", "--settings", "django_settings", f"127.0.0.1:{port}"),
    ),
    "aiohttp": lambda stack, name, port: ("serve_aiohttp.py", port),
    "grpc": lambda stack, name, port: ("serve_grpc.py", stack.framework, port),
}

_ACCESS_LOGGERS = {
    "uvicorn": "uvicorn.access",
    "hypercorn": "hypercorn.access",
    "granian": "granian.access",
    "granian-wsgi": "granian.access",
    "gunicorn": "gunicorn.access",
    "werkzeug": "werkzeug",
    "runserver": "django.server",
    "aiohttp": "aiohttp.access",
}

ASGI = [
    Stack(server, framework, "asgi")
    for server in ("uvicorn", "hypercorn", "granian")
    for framework in ("plain", "starlette", "fastapi", "django")
]
WSGI = [
    Stack(server, framework, "wsgi")
    for server in ("gunicorn", "granian-wsgi", "waitress", "wsgiref")
    for framework in ("plain", "flask", "django")
]
DEVELOPMENT = [Stack("werkzeug", "flask", "wsgi"), Stack("runserver", "django", "wsgi")]
AIOHTTP = [Stack("aiohttp", "server", "aiohttp")]
GRPC = [Stack("grpc", "sync", "grpc"), Stack("grpc", "aio", "grpc")]

HTTP = [*ASGI, *WSGI, *DEVELOPMENT, *AIOHTTP]
STACKS = [*HTTP, *GRPC]


def of(stacks: Iterable[Stack]) -> pytest.MarkDecorator:
    """Parametrise a test, a column of the matrix, by the rows that have it."""
    return pytest.mark.parametrize("stack", list(stacks), ids=str)


def of_module(request: pytest.FixtureRequest) -> list[Stack]:
    """Return the rows that the chosen tests of a module need, in their order."""
    chosen = (item for item in request.session.items if item.path == request.path and hasattr(item, "callspec"))
    return list(dict.fromkeys(item.callspec.params["stack"] for item in chosen))


def require(*packages: str) -> None:
    """Skip the test, or with ``CI`` set fail it, unless all of these can be imported."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        sentence = f"not installed: {', '.join(missing)} (requirements/test.txt)"
        if os.environ.get("CI"):
            pytest.fail(f"{sentence}; CI is set, so a missing part is a failure", pytrace=False)
        pytest.skip(sentence)
