"""Start one of the shop's three programs: ``python -m shop front --port 8000``, ``payments`` or ``worker``.

``python -m shop prepare`` makes the databases that they need.

Where telemetry goes is set by environment variables alone: ``OTEL_SERVICE_NAME``, ``OTEL_EXPORTER_OTLP_ENDPOINT`` and
so on. This module is all that the shop does for it, beside the measuring itself.
"""

from __future__ import annotations

import argparse
import logging

import clew
import clew.integrations.logging


def main() -> None:
    """Set up logs and telemetry, then run the program that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m shop", description="One of the shop's programs.")
    parser.add_argument("program", choices=("prepare", "front", "payments", "worker"))
    parser.add_argument("--port", type=int, default=0, help="for front and payments; 0 (the default) picks a free one")
    chosen = parser.parse_args()
    if chosen.program == "prepare":
        prepare()
        return
    set_up_logs()
    clew.configure()
    if chosen.program == "worker":
        from shop import worker

        worker.main()
    else:
        serve(chosen.program, chosen.port)


def prepare() -> None:
    """Make the databases of the shop and of payments, as they are on the first morning."""
    from shop import database, payments, seed

    seed.seed(database.database_file())
    database.create(payments.database_file(), payments.SCHEMA)


def set_up_logs() -> None:
    """Log to standard error, each line with its request ID."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"))
    handler.addFilter(clew.integrations.logging.RequestIdFilter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)


def serve(program: str, port: int) -> None:
    """Serve one of the two web applications on loopback until a signal stops it; uvicorn logs the address."""
    import uvicorn

    from shop import front, payments

    uvicorn.run(front.app if program == "front" else payments.app, host="127.0.0.1", port=port, log_config=None)


if __name__ == "__main__":
    main()
