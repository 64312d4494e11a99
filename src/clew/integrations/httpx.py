"""The request ID in calls by httpx.

```python
client = clew.integrations.httpx.instrument(httpx.Client())
```
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from clew.integrations._shared.auto_instrument import patch
from clew.integrations._shared.outgoing import inject

try:
    import httpx
except ImportError as error:
    raise ImportError("clew.integrations.httpx needs httpx: pip install 'clew[httpx]'") from error

__all__ = ["instrument", "instrument_all", "uninstrument"]

Client = TypeVar("Client", httpx.Client, httpx.AsyncClient)


def instrument(client: Client) -> Client:
    """Let `client` send the ID of the current request with each call, redirects included, to hosts that may have it.

    Returns:
        `client`, the same object, an `httpx.Client` or `httpx.AsyncClient`.

    Raises:
        TypeError: `client` is neither.
    """
    hook = _hook_for(client)
    hooks: dict[str, list[Callable[..., Any]]] = client.event_hooks
    if hook not in hooks["request"]:
        client.event_hooks = {**hooks, "request": [*hooks["request"], hook]}
    return client


def instrument_all() -> None:
    """Instrument every client that is made from now on; a second call changes nothing."""
    for kind in (httpx.Client, httpx.AsyncClient):
        patch(kind, "__init__", _made)


def _made(make: Callable[..., None]) -> Callable[..., None]:
    def make_instrumented(self: Any, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        instrument(self)

    return make_instrumented


def uninstrument(client: httpx.Client | httpx.AsyncClient) -> None:
    """Let `client` send no request IDs any more."""
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "request": [hook for hook in hooks["request"] if hook not in (_hook, _async_hook)]}


def _hook_for(client: object) -> Callable[..., Any]:
    if isinstance(client, httpx.Client):
        return _hook
    if isinstance(client, httpx.AsyncClient):
        return _async_hook
    raise TypeError(f"instrument() takes an httpx.Client or httpx.AsyncClient, not {type(client).__name__}")


def _hook(request: httpx.Request) -> None:
    inject(request.headers, str(request.url))


async def _async_hook(request: httpx.Request) -> None:
    inject(request.headers, str(request.url))
