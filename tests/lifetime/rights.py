"""What the user who runs the tests may do."""

from __future__ import annotations

import subprocess


def may_unshare() -> bool:
    """Tell whether a process may have a PID namespace of its own, in which it is the first one."""
    try:
        return subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False
