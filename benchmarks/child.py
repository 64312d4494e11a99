"""Fresh interpreters for what cannot be measured in a process that has done other things before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def clean_environment() -> dict[str, str]:
    """Return this process's environment without telemetry settings, and with nothing to be sent anywhere."""
    # where byte code is not written, importing would compile each time, which users never see
    left_out = ("OTEL_", "CLEW_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    kept.setdefault("PYTHONPYCACHEPREFIX", str(ROOT / "build" / "bytecode"))
    return {**kept, **{f"OTEL_{signal}_EXPORTER": "none" for signal in ("METRICS", "TRACES", "LOGS")}}


def run(*arguments: str) -> Any:
    """Run the interpreter with `arguments` and return what it printed, as JSON.

    Raises:
        RuntimeError: It failed; with the end of its standard error.
    """
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"python {' '.join(arguments)[:120]} failed ({done.returncode}): {done.stderr[-2000:]}")
    return json.loads(done.stdout)
