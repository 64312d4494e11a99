"""The request ID on the records of loguru.

```python
logger.configure(patcher=clew.integrations.loguru.add_request_id)
logger.add(sys.stderr, format="{time} {extra[request_id]} {level} {message}")
```
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from clew.request import policy, remembered_request_id, request_id

try:
    import_module("loguru")
except ImportError as error:
    raise ImportError("clew.integrations.loguru needs loguru: pip install 'clew[loguru]'") from error

__all__ = ["add_request_id"]


def add_request_id(record: Any) -> None:
    """Set ``extra[request_id]`` on a record that has none, ``-`` outside a request; a patcher.

    Of a record with an exception outside a request it is the ID of the request that the exception has left.
    """
    extra = record["extra"]
    if policy.attribute not in extra:
        error = getattr(record.get("exception"), "value", None)
        extra[policy.attribute] = request_id() or remembered_request_id(error) or "-"
