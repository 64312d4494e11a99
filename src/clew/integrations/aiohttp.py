"""The request ID onwards with aiohttp's client.

```python
session = clew.integrations.aiohttp.instrument(aiohttp.ClientSession())
```
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar, cast

from clew.integrations.onward import pass_on
from clew.redirects import redirect_target

try:
    _aiohttp: Any = import_module("aiohttp")
except ImportError as error:
    raise ImportError("clew.integrations.aiohttp needs aiohttp: pip install 'clew[aiohttp]'") from error

__all__ = ["instrument"]

Session = TypeVar("Session")


def instrument(session: Session) -> Session:
    """Let `session` send the ID of the current request with each call, redirects included, to hosts that may have it.

    Returns:
        `session`, the same object, an `aiohttp.ClientSession`.

    Raises:
        TypeError: `session` is none.
    """
    if not isinstance(session, _aiohttp.ClientSession):
        raise TypeError(f"instrument() takes an aiohttp.ClientSession, not {type(session).__name__}")
    configs: list[Any] = cast("Any", session).trace_configs
    if not any(_before_call in config.on_request_start for config in configs):
        config = _aiohttp.TraceConfig()
        config.on_request_start.append(_before_call)
        config.on_request_redirect.append(_before_redirect)
        config.freeze()
        configs.append(config)
    return session


async def _before_call(_session: Any, _context: Any, call: Any) -> None:
    pass_on(call.headers, str(call.url))


async def _before_redirect(_session: Any, _context: Any, call: Any) -> None:
    """The same headers go on to where the response points."""
    pass_on(call.headers, redirect_target(call.url, call.response))
