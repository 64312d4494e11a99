"""A WSGI application without a framework."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import shop

from clew.integrations.wsgi import RequestMiddleware


def plain(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/fails":
        shop.fail()
    status = "500 Internal Server Error" if path == "/refuses" else "200 OK"
    start_response(status, [("Content-Type", "text/plain")])
    if path == "/refuses":
        return [b"out of order"]
    if path == "/stream":
        return shop.parts()
    found = shop.look_up(path)
    shop.ask_stock()
    return [found.encode()]


application: Any = plain
if shop.CONTRIB:
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

    application = OpenTelemetryMiddleware(plain)
application = RequestMiddleware(application)
