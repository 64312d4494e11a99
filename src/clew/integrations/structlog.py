"""The request ID on the events of structlog.

```python
structlog.configure(processors=[clew.integrations.structlog.add_request_id, ...])
```
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from importlib import import_module
from typing import Any, cast

from clew.request import policy, remembered_request_id, request_id

try:
    import_module("structlog")
except ImportError as error:
    raise ImportError("clew.integrations.structlog needs structlog: pip install 'clew[structlog]'") from error

__all__ = ["add_request_id"]


def add_request_id(_logger: Any, _method_name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Set ``request_id`` on an event that has none; a processor, to stand before the renderer.

    Of an event with ``exc_info`` outside a request it is the ID of the request that the exception has left. Outside a
    request otherwise nothing is set.
    """
    if policy.attribute not in event:
        name = request_id() or remembered_request_id(_error(event.get("exc_info")))
        if name is not None:
            event[policy.attribute] = name
    return event


def _error(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        parts = cast("tuple[object, ...]", exc_info)
        error = parts[1] if len(parts) == 3 else None
    else:
        error = sys.exc_info()[1] if exc_info else None
    return error if isinstance(error, BaseException) else None
