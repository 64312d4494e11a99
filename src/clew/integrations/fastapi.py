"""The request ID for a FastAPI application.

```python
app = FastAPI()
clew.integrations.fastapi.instrument(app)
```

FastAPI 0.165 and later record spans and ``http.server.request.duration`` themselves: then these carry the request ID,
and nothing is recorded twice.
"""

from __future__ import annotations

from importlib import import_module

try:
    import_module("fastapi")  # brings Starlette
except ImportError as error:
    raise ImportError("clew.integrations.fastapi needs fastapi: pip install 'clew[fastapi]'") from error

from clew.integrations.starlette import RequestMiddleware, instrument, instrument_all, uninstrument

__all__ = ["RequestMiddleware", "instrument", "instrument_all", "uninstrument"]
