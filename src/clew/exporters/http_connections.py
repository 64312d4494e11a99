"""Connections of `requests` on which everything ends by one deadline.

The timeouts of `requests` are for each address of a host, each read and each write: an endpoint that answers or takes
a byte a second is never timed out. Here each step gets the time that is left, and names are looked up in a thread of
their own, since that cannot be given up in the middle.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import math
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.poolmanager import ProxyManager
from urllib3.util.connection import create_connection

from clew.delivery.worker import in_thread
from clew.interpreter import forks

_PIECE = 16_384
"""How many bytes are written at a time: a record of TLS."""


# a greenlet has its own too, where gevent has patched the interpreter after this: a `threading.local` would be shared
_deadline: ContextVar[float] = ContextVar("clew-deadline", default=math.inf)


@contextmanager
def time_limit(deadline: float) -> Generator[None]:
    """Limit what this thread does on these connections inside the block to the deadline (of `time.monotonic`)."""
    _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.set(math.inf)


def _left() -> float | None:
    """Return the seconds that are left, None without a limit; raise TimeoutError where there are none."""
    deadline = _deadline.get()
    if math.isinf(deadline):
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


class _Reader(io.RawIOBase):
    """The bytes from a socket, each read within the time that is left."""

    def __init__(self, connected: Any) -> None:
        self._socket = connected
        self._raw = connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(_left())
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        try:
            self._raw.close()
        finally:
            super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(sock))


class _Connection(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        failure: OSError | None = None
        try:
            for address in _addresses(self.host, self.port):
                try:
                    connected = create_connection(
                        (address, self.port),
                        _left(),
                        source_address=self.source_address,
                        socket_options=self.socket_options,
                    )
                    connected.settimeout(_left())  # also for the handshake of TLS, as a whole
                except TimeoutError:
                    raise
                except OSError as error:
                    failure = error
                else:
                    return connected
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"not connected to {self.host} in time") from error
        except OSError as error:
            failure = error
        raise NewConnectionError(self, f"not connected to {self.host}: {failure}") from failure

    def send(self, data: Any) -> None:
        if self.sock is None and self.auto_open:
            self.connect()
        if not isinstance(data, (bytes, bytearray)) or self.sock is None:
            super().send(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            self.sock.settimeout(_left())
            super().send(view[start : start + _PIECE])


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls: Any = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls: Any = _SecureConnection


_POOLS: Any = {"http": _Pool, "https": _SecurePool}


class DeadlineAdapter(HTTPAdapter):
    """Gives a session of `requests` connections that end by a deadline, through a proxy too."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Make the pools of connections to a proxy; those of a SOCKS proxy have timeouts for each step alone."""
        manager: Any = super().proxy_manager_for(*args, **kwargs)
        if type(manager) is ProxyManager:
            manager.pool_classes_by_scheme = _POOLS
        return manager


class _LookUp:
    """The look-up of a host name, which cannot be interrupted."""

    def __init__(self, host: str, port: int) -> None:
        self._place = host, port
        self.done = threading.Event()
        self.addresses: list[str] = []
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            found = socket.getaddrinfo(*self._place, type=socket.SOCK_STREAM)
            self.addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        except (OSError, UnicodeError) as error:
            self.error = error if isinstance(error, OSError) else OSError(str(error))
        finally:
            _look_ups.pop(self._place, None)
            self.done.set()


_look_ups: dict[tuple[str, int], _LookUp] = {}


def _addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a host; a look-up that takes longer than there is time goes on for the next attempt."""
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    look_up = _look_ups.get((host, port))
    if look_up is None:
        look_up = _look_ups[host, port] = _LookUp(host, port)
        if not in_thread(look_up.run, "clew-look-up"):
            look_up.run()  # near the interpreter's end
    if not look_up.done.wait(_left()):
        raise TimeoutError(f"the name {host} was not found in time")
    if look_up.error is not None:
        raise look_up.error
    return look_up.addresses


forks.after_in_child(_look_ups.clear)
