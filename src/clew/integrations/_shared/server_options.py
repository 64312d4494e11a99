"""What the server integrations can be told, and what they do by it: how a request ID is found or made, and shown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from clew.diagnostics import count, warn_once
from clew.interpreter import forks
from clew.interpreter.interruptions import let_through
from clew.policy import policy
from clew.propagation import baggage
from clew.propagation.ids import accept, is_valid, new_request_id
from clew.propagation.propagator import first_value

Metrics = bool | Literal["auto"]
Ignored = frozenset[str] | Callable[[Any], object]


class RequestIdArguments(TypedDict, total=False):
    """The keywords of all server integrations: where a request ID comes from, and where it is shown."""

    headers: str | Iterable[str] | None
    validator: Callable[[str], object] | None
    transformer: Callable[[str], str] | None
    generator: Callable[[], str] | None
    trust: bool | None
    echo: bool | str


class HttpArguments(RequestIdArguments, total=False):
    """The keywords of all integrations of HTTP servers; each one adds its ``ignore``, whose callable gets its own."""

    expose: bool
    update_request_headers: bool
    metrics: Metrics


@dataclass(frozen=True)
class ServerOptions:
    """The choices of one middleware or interceptor. An error of a callable is logged once, and a fresh ID is used.

    Args:
        headers: The header names that are accepted, the first one that is there counts; None for the configured one.
        validator: Called with the header's text; the ID is accepted only if the result is true.
        transformer: Called with the ID, accepted or made, and returns the one to use.
        generator: Makes the ID of a request that brings none.
        trust: Whether incoming IDs are accepted at all; None for what is configured.
        echo: Whether the response carries the ID: True in the header it is read from, or the name of another header.
        expose: Whether the response lets the scripts of other origins read that header.
        update_request_headers: Whether the application sees the ID in the headers of the request too.
        metrics: Whether requests are measured; ``"auto"`` for each one that nobody else measures.
        ignore: The paths that are passed on untouched, or a callable that tells it.
    """

    headers: tuple[str, ...] | None = None
    validator: Callable[[str], object] | None = None
    transformer: Callable[[str], str] | None = None
    generator: Callable[[], str] | None = None
    trust: bool | None = None
    echo: bool | str = True
    expose: bool = False
    update_request_headers: bool = False
    metrics: Metrics = "auto"
    ignore: Ignored = frozenset()
    is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        """Find out once whether an ID that comes in is simply the text of the configured header."""
        is_plain = self.headers is None and self.validator is None and self.transformer is None
        object.__setattr__(self, "is_plain", is_plain)

    def header_names(self) -> tuple[str, ...]:
        """Return the header names to look for, in this order."""
        return self.headers if self.headers is not None else (policy.header,)

    def echo_name(self, came_in: str | None = None) -> str | None:
        """Return the name of the response header, or None where there is to be none.

        Args:
            came_in: The header that the ID came in, where several are accepted.
        """
        if self.echo is True:
            return came_in or (policy.header if self.headers is None else self.headers[0])
        return self.echo or None

    def came_in(self, read: Callable[[str], str | None]) -> str | None:
        """Return the header that the ID is read from where several are accepted; None where it is in none of them."""
        if self.headers is None or len(self.headers) == 1:
            return None
        return next((header for header in self.headers if first_value(read(header) or "")), None)

    def choose(self, read: Callable[[str], str | None]) -> str:
        """Return the ID of a request whose headers `read` gives by name; it is always a valid one."""
        forks.notice()
        is_trusted = policy.trust if self.trust is None else self.trust
        if self.is_plain and is_trusted:  # the fast path of most requests; what it does not know takes the slow one
            text = read(policy.header)
            if not text and not policy.baggage:
                return new_request_id() if self.generator is None else self._made()
            if text and is_valid(text):
                return text
        found = self._accepted(read) if is_trusted else None
        if self.transformer is not None:
            return self._transformed(self._made() if found is None else found) or new_request_id()
        return (None if found is None else accept(found)) or self._made()

    def is_ignored(self, request: object, path: object) -> bool:
        """Tell whether a request, an ASGI scope or a WSGI environ, is to be passed on untouched."""
        ignore = self.ignore
        if not callable(ignore):
            return path in ignore
        try:
            return bool(ignore(request))
        except Exception as error:
            let_through(error)
            _not_as_told("ignore callable", error)
            return False

    def _accepted(self, read: Callable[[str], str | None]) -> str | None:
        text = self._text(read)
        if text:
            if self.validator is None:
                return text
            try:
                if self.validator(text):
                    return text
            except Exception as error:
                let_through(error)
                _not_as_told("validator", error)
                return None
            count("request_id.replaced")
            warn_once(
                ("request_id.refused", id(self.validator)),
                "The request ID %s was refused by the validator and replaced by a fresh one (logged once; each one is "
                "counted)",
                ascii(text[:64]),
            )
            return None
        return None

    def _text(self, read: Callable[[str], str | None]) -> str | None:
        """Return what comes in as an ID: of the first header that is there, or of the baggage where that is asked."""
        for header in self.header_names():
            text = first_value(read(header) or "")
            if text:
                return text
        return baggage.id_in(read(baggage.HEADER) or "") if policy.baggage else None

    def _made(self) -> str:
        if self.generator is None:
            return new_request_id()
        try:
            made: Any = self.generator()
        except Exception as error:
            let_through(error)
            _not_as_told("generator", error)
            return new_request_id()
        if isinstance(made, str) and is_valid(made):
            return made
        _not_as_told("generator", ValueError(f"it returned {ascii(made)[:80]}, which is no request ID"))
        return new_request_id()

    def _transformed(self, name: str) -> str | None:
        assert self.transformer is not None
        try:
            transformed: Any = self.transformer(name)
        except Exception as error:
            let_through(error)
            _not_as_told("transformer", error)
            return None
        return accept(transformed)


def server_options(owner: str, given: Mapping[str, Any], known: Collection[str]) -> ServerOptions:
    """Check what was given to the middleware `owner`, which knows the keywords `known`, and gather it.

    Raises:
        TypeError, ValueError: A keyword is not known, or has a value that it does not take; `owner` is named.
    """
    check_names(owner, given, known)
    checked = dict(given)
    checked["headers"] = _header_names(owner, given.get("headers"))
    checked["ignore"] = _ignored(owner, given.get("ignore", ()))
    options = ServerOptions(**checked)
    echo, trust, metrics = options.echo, options.trust, options.metrics
    if isinstance(echo, str):
        _check_header(owner, "echo", echo)
    elif echo is not True and echo is not False:
        raise TypeError(f"{owner}: echo takes True, False or a header name, not {echo!r}")
    for keyword in ("validator", "transformer", "generator"):
        function: object = getattr(options, keyword)
        if function is not None and not callable(function):
            raise TypeError(f"{owner}: {keyword} takes a callable or None, not {function!r}")
    if trust not in (True, False, None):
        raise TypeError(f"{owner}: trust takes True, False or None, not {trust!r}")
    if metrics is not True and metrics is not False and metrics != "auto":
        raise ValueError(f'{owner}: metrics takes True, False or "auto", not {metrics!r}')
    return options


def check_names(owner: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise a TypeError, as a call does, where a keyword is given to `owner` that is not among the `known` ones."""
    for name in given:
        if name not in known:
            raise TypeError(f"{owner}() got an unexpected keyword argument {name!r}")


def _header_names(owner: str, headers: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if headers is None:
        return None
    names = (headers,) if isinstance(headers, str) else tuple(headers)
    if not names:
        raise ValueError(f"{owner}: headers is empty; it takes header names, or None for the configured one")
    for name in names:
        _check_header(owner, "headers", name)
    return names


def _ignored(owner: str, ignore: Any) -> Ignored:
    """Return the paths of `ignore` as a set, or the callable that it is."""
    if callable(ignore):
        call: Callable[[Any], object] = ignore
        return call
    if isinstance(ignore, str) or not isinstance(ignore, Iterable):
        raise TypeError(f"{owner}: ignore takes several paths or a callable, not {ignore!r}")
    paths: list[Any] = list(ignore)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    for path in paths:
        if not isinstance(path, str):
            raise TypeError(f"{owner}: ignore takes paths, not {path!r}")
        if not path.startswith("/"):
            raise ValueError(f"{owner}: ignore takes paths, which begin with a slash, not {path!r}")
    return frozenset(paths)


def exposed(names: str | None, header: str) -> str:
    """Return the value of ``Access-Control-Expose-Headers`` with `header` added to what it has, or None, so far."""
    if not names or not names.strip():
        return header
    listed = {name.strip().lower() for name in names.split(",")}
    return names if "*" in listed or header.lower() in listed else f"{names}, {header}"


_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _check_header(owner: str, keyword: str, name: Any) -> None:
    if not isinstance(name, str) or not name or not _TOKEN.issuperset(name):
        raise ValueError(f"{owner}: {keyword} takes names of HTTP headers, not {name!r}")


def _not_as_told(what: str, error: Exception) -> None:
    count(f"{what.replace(' ', '_')}.failed")
    warn_once(
        (what, type(error).__name__),
        "The %s of the request middleware failed with %s: %s; the request goes on with a fresh request ID (logged "
        "once; each one is counted)",
        what,
        type(error).__name__,
        ascii(str(error)[:200]),
    )
