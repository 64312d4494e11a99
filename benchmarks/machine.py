"""The machine, the interpreter and the packages that the figures come from."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("clew", "opentelemetry-api", "opentelemetry-sdk", "prometheus_client", "autometrics", "logfire")


def describe(recorder: str) -> dict[str, Any]:
    """Return what a reader of the figures has to know; a package that is not installed is None."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": load,
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "implementation": platform.python_implementation(),
        "recorder": recorder,
        "packages": {package: _version(package) for package in PACKAGES},
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
