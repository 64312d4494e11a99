"""`clew local`: the local collector, until it is stopped."""

from __future__ import annotations

import argparse
import os

from clew.cli.arguments import Commands, add_store, duration, port, size
from clew.cli.output import ANSWERED, UNREACHABLE, say


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `clew local` to the commands."""
    parser = commands.add_parser(
        "local",
        help="receive OTLP on this machine and keep it in one SQLite file",
        description="Receive OTLP over gRPC and HTTP (protobuf and JSON) and keep it in one SQLite file, till stopped.",
    )
    add_store(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--grpc-port", type=port, default=4317, metavar="PORT", help="0 picks a free one (default: 4317)"
    )
    parser.add_argument(
        "--http-port", type=port, default=4318, metavar="PORT", help="0 picks a free one (default: 4318)"
    )
    parser.add_argument(
        "--max-age", type=duration, metavar="TIME", help="delete what is older, like 7d; metrics stay 49 h at least"
    )
    parser.add_argument(
        "--max-size",
        type=size,
        default=2**30,
        metavar="SIZE",
        help="size of the file, like 500MB; over it the oldest log lines go first, then spans, exemplars, metrics "
        "(default: 1GiB)",
    )
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from clew.local.collector import ListenError, Settings, serve
    from clew.local.store import StoreError

    settings = Settings(
        store=chosen.store,
        host=chosen.host,
        grpc_port=chosen.grpc_port,
        http_port=chosen.http_port,
        max_age=chosen.max_age,
        max_size=chosen.max_size,
        request_id_attribute=os.environ.get("CLEW_REQUEST_ID_ATTRIBUTE") or "request_id",
    )
    if chosen.host not in ("localhost", "::1") and not chosen.host.startswith("127."):
        say(f"listening on {chosen.host}: anyone who can reach it may send, without authentication")
    try:
        serve(settings)
    except (StoreError, ListenError) as error:
        return say(str(error), UNREACHABLE)
    return ANSWERED
