# Imported by the interpreter at its start, from the folder that `clew run` puts into PYTHONPATH; by any interpreter
# that the program starts, one without clew too, so it has to be valid in every Python 3.
"""Starts telemetry, after the `sitecustomize` that would have been imported without `clew`."""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _import_other() -> None:
    """Import the `sitecustomize` that this one stands in front of, if there is one, in its place."""
    ours = sys.modules.pop("sitecustomize", None)
    sys.path[:] = [folder for folder in sys.path if folder != _HERE]
    try:
        __import__("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        if ours is not None:
            sys.modules["sitecustomize"] = ours


def _begin() -> None:
    try:
        from clew.run.start import begin
    except Exception as error:  # of a Python without clew, or too old for it
        # written by the program itself alone (`MAIN_PROCESS`): other interpreters it starts have packages of their own
        if os.environ.get("_CLEW_RUN_MAIN_PROCESS") == str(os.getpid()):
            sys.stderr.write("clew: %s starts without telemetry: %s\n" % (sys.executable, error))  # noqa: UP031
        return
    begin()


try:
    _import_other()
finally:
    _begin()
