"""Serves a WSGI application by the server and on the port that the command line names."""

from __future__ import annotations

import sys
from importlib import import_module
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

import shop


class ThreadingServer(ThreadingMixIn, WSGIServer):
    """The server of the standard library, a thread for each connection."""

    daemon_threads = True


def serve(server: str, application: Any, port: int) -> None:
    if server == "wsgiref":
        with make_server("127.0.0.1", port, application, ThreadingServer) as listening:
            listening.serve_forever()
    elif server == "waitress":
        import waitress

        waitress.serve(application, host="127.0.0.1", port=port)
    elif server == "werkzeug":
        from werkzeug.serving import run_simple

        run_simple("127.0.0.1", port, application, threaded=True)


if __name__ == "__main__":
    named, module, listening_on = sys.argv[1:]
    shop.configure_logging()
    serve(named, import_module(module).application, int(listening_on))
