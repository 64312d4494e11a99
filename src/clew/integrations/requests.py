"""The request ID in calls by requests.

```python
session = clew.integrations.requests.instrument(requests.Session())
```
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from clew.integrations._shared.auto_instrument import patch
from clew.integrations._shared.outgoing import inject

try:
    import requests
except ImportError as error:
    raise ImportError("clew.integrations.requests needs requests: pip install 'clew[requests]'") from error

__all__ = ["instrument", "instrument_all", "uninstrument"]

Session = TypeVar("Session", bound=requests.Session)

_MARK = "_clew_original_send"


def instrument(session: Session) -> Session:
    """Let `session` send the ID of the current request with each call, redirects included, to hosts that may have it.

    Returns:
        `session`, the same object.

    Raises:
        TypeError: `session` is no `requests.Session`.
    """
    if not isinstance(session, requests.Session):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"instrument() takes a requests.Session, not {type(session).__name__}")
    send = session.send
    if hasattr(send, _MARK):
        return session

    @functools.wraps(send)
    def send_with_request_id(request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        _add_to(request)
        return send(request, **kwargs)

    setattr(send_with_request_id, _MARK, send)
    session.send = send_with_request_id  # type: ignore[method-assign]
    return session


def instrument_all() -> None:
    """Let every session send request IDs, that behind `requests.get` too; a second call changes nothing."""
    patch(requests.Session, "send", _with_request_id)


def _with_request_id(send: Callable[..., requests.Response]) -> Callable[..., requests.Response]:
    def send_with_request_id(self: Any, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        _add_to(request)
        return send(self, request, **kwargs)

    return send_with_request_id


def _add_to(request: requests.PreparedRequest) -> None:
    if request.url is not None and request.headers is not None:  # pyright: ignore[reportUnnecessaryComparison]
        inject(request.headers, request.url)


def uninstrument(session: requests.Session) -> None:
    """Let `session` send no request IDs any more."""
    send = getattr(session.send, _MARK, None)
    if send is not None:
        session.send = send  # type: ignore[method-assign]
