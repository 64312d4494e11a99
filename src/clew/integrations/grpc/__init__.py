"""The request ID for gRPC servers and clients, the ones of `grpc` and of `grpc.aio`.

```python
server = grpc.server(pool, interceptors=[clew.integrations.grpc.server_interceptor()])
channel = clew.integrations.grpc.instrument(grpc.insecure_channel("stock:50051"))

server = grpc.aio.server(interceptors=[clew.integrations.grpc.aio_server_interceptor()])
channel = grpc.aio.insecure_channel(
    "stock:50051", interceptors=clew.integrations.grpc.aio_client_interceptors("stock:50051")
)
```
"""

from __future__ import annotations

from importlib import import_module

try:
    import_module("grpc")
except ImportError as error:
    raise ImportError("clew.integrations.grpc needs grpcio: pip install 'clew[grpc]'") from error

from clew.integrations.grpc.auto_instrument import instrument_all
from clew.integrations.grpc.client import aio_client_interceptors, instrument
from clew.integrations.grpc.server import aio_server_interceptor, server_interceptor

__all__ = [
    "aio_client_interceptors",
    "aio_server_interceptor",
    "instrument",
    "instrument_all",
    "server_interceptor",
]
