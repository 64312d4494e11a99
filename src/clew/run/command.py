"""``clew run``: replaces itself by a program whose Python processes start with telemetry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from clew.run.start import MAIN_PROCESS, defaults

STARTUP = str(Path(__file__).resolve().parent / "startup")
"""The folder that stands first in ``PYTHONPATH``: the interpreter imports `sitecustomize` from there."""


class CannotRunError(Exception):
    """Raised where the program cannot be started; the text says why."""


def run(program: str, arguments: Sequence[str]) -> int:
    """Replace this process by `program`; signals, standard streams and the exit status are then those of the program.

    Where a process cannot be replaced (Windows), it is waited for, and its exit status is returned.

    Raises:
        CannotRunError: There is no such program, or the settings are wrong and ``CLEW_STRICT`` is true.
    """
    path = shutil.which(program)
    if path is None:
        hint = f"; run `clew run -- python {program}`" if Path(program).suffix == ".py" else ""
        raise CannotRunError(f"{program!r} is no program that can be run: not on PATH, or not executable{hint}")
    environment = environment_for(os.environ)
    _check_settings(environment)
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform == "win32":
        return subprocess.call([path, *arguments], env=environment)
    environment[MAIN_PROCESS] = str(os.getpid())
    try:
        os.execve(path, [program, *arguments], environment)
    except OSError as error:
        raise CannotRunError(f"{path} cannot be run: {error.strerror}") from error


def environment_for(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the program: `environ`, our defaults for what is unset, and where Python starts."""
    environment = {**environ, **defaults(environ)}
    folders = [folder for folder in environ.get("PYTHONPATH", "").split(os.pathsep) if folder and folder != STARTUP]
    environment["PYTHONPATH"] = os.pathsep.join([STARTUP, *folders])
    return environment


def _check_settings(environment: Mapping[str, str]) -> None:
    from clew.telemetry import is_strict

    if is_strict(environment):
        from clew.settings import ConfigurationError, load_settings

        try:
            load_settings(environment)
        except ConfigurationError as error:
            raise CannotRunError(str(error)) from error
