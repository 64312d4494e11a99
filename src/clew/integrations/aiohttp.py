"""The request ID onwards with aiohttp's client.

```python
session = clew.integrations.aiohttp.instrument(aiohttp.ClientSession())
```
"""

from __future__ import annotations

from typing import Any

import aiohttp

from clew.integrations.onward import pass_on
from clew.redirects import redirect_target

__all__ = ["instrument"]


def instrument(session: aiohttp.ClientSession) -> aiohttp.ClientSession:
    """Let `session` send the ID of the current request with each call, redirects included, to hosts that may have it.

    Returns:
        `session`, the same object.

    Raises:
        TypeError: `session` is no `aiohttp.ClientSession`.
    """
    if not isinstance(session, aiohttp.ClientSession):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"instrument() takes an aiohttp.ClientSession, not {type(session).__name__}")
    if not any(isinstance(config, _TraceConfig) for config in session.trace_configs):
        config = _TraceConfig()
        config.on_request_start.append(_before_call)
        config.on_request_redirect.append(_before_redirect)
        config.freeze()
        session.trace_configs.append(config)
    return session


class _TraceConfig(aiohttp.TraceConfig):
    """Ours, to be known again."""


async def _before_call(_session: aiohttp.ClientSession, _context: Any, call: aiohttp.TraceRequestStartParams) -> None:
    pass_on(call.headers, str(call.url))


async def _before_redirect(
    _session: aiohttp.ClientSession, _context: Any, call: aiohttp.TraceRequestRedirectParams
) -> None:
    """The same headers go on to where the response points."""
    pass_on(call.headers, redirect_target(call.url, call.response))
