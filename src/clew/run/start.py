"""The start of telemetry in a process whose program knows nothing of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from clew.diagnostics import warn_once

if TYPE_CHECKING:
    import logging

NAME = "clew"
"""Our entry points among those of OpenTelemetry, for ``OTEL_PYTHON_DISTRO`` and ``OTEL_PYTHON_CONFIGURATOR``."""

DISTRO = "OTEL_PYTHON_DISTRO"
CONFIGURATOR = "OTEL_PYTHON_CONFIGURATOR"

MAIN_PROCESS = "_CLEW_RUN_MAIN_PROCESS"
"""A variable that holds the ID of the process that `clew run` became."""

_DEFAULTS = {DISTRO: NAME, CONFIGURATOR: NAME, "OTEL_SEMCONV_STABILITY_OPT_IN": "http"}
_CONTRIB = "opentelemetry.instrumentation.auto_instrumentation"

_FORK_SERVER = "from multiprocessing.forkserver import main"
_HELPERS = ("from multiprocessing.resource_tracker import main", "loky.backend.resource_tracker")

_is_begun = False


def defaults(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a start without code sets: those of its own that are unset or empty in `environ`."""
    return {name: value for name, value in _DEFAULTS.items() if not environ.get(name, "").strip()}


def begin() -> None:
    """Begin in a process that `clew run` or one of its children has started; never raises.

    With contrib's opentelemetry-instrumentation installed its instrumentations are switched on as
    opentelemetry-instrument does it, by the distro and the configurator that the variables name.
    """
    try:
        if _is_begun or _is_left_alone():
            return
        os.environ.update(defaults(os.environ))
        if _CONTRIB not in sys.modules and find_spec("opentelemetry.instrumentation") and find_spec(_CONTRIB):
            _initialize_contrib()
        configure()
    except Exception as error:
        warn_once("begin", "The program starts without telemetry: %s: %s", type(error).__name__, error)


def _initialize_contrib() -> None:
    """Switch contrib's instrumentations on, without its warning for each configurator that was not asked for."""
    import logging
    from importlib import import_module

    logger = logging.getLogger(f"{_CONTRIB}._load")
    logger.addFilter(_is_worth_logging)
    try:
        import_module(_CONTRIB).initialize()
    finally:
        logger.removeFilter(_is_worth_logging)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    return not (is_named(CONFIGURATOR) and str(record.msg).startswith("Configuration of %s not loaded"))


def configure() -> None:
    """Configure `clew`, unless another configurator is named, and let the integrations be switched on, once each.

    Raises:
        ConfigurationError: Settings are wrong, and ``CLEW_STRICT`` is true.
    """
    global _is_begun
    if _is_begun or _is_left_alone():
        return
    _is_begun = True
    os.environ.update(defaults(os.environ))
    if is_named(CONFIGURATOR):
        from clew.telemetry import configure_without_code

        configure_without_code()
    from clew.run.activation import activate

    activate()


def is_named(variable: str) -> bool:
    """Tell whether the variable names us."""
    return os.environ.get(variable, "").strip() == NAME


def _is_left_alone() -> bool:
    """Tell whether this is one of the processes that serve `multiprocessing` itself.

    A child that the fork server forks is a process of the program, and begins when it is forked.
    """
    arguments = sys.orig_argv
    if any(helper in argument for argument in arguments for helper in _HELPERS):
        return True
    if not any(argument.startswith(_FORK_SERVER) for argument in arguments) or _is_forked_by_server():
        return False
    _begin_in_children()
    return True


_server: int | None = None


def _begin_in_children() -> None:
    global _server
    if _server is None and hasattr(os, "register_at_fork"):
        _server = os.getpid()
        os.register_at_fork(after_in_child=begin)


def _is_forked_by_server() -> bool:
    return _server is not None and _server != os.getpid()
