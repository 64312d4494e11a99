"""Our part of opentelemetry-instrument: the entry points ``clew`` of its distros and configurators.

They act only where ``OTEL_PYTHON_DISTRO`` or ``OTEL_PYTHON_CONFIGURATOR`` names them. Where these are unset, the first
entry point that is found acts. Where that is one of ours, it leaves the start to the others.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from clew.run.start import CONFIGURATOR, DISTRO, NAME, configure, defaults, is_named


def distro() -> Any:
    """Return the distro where it is named, or None, which opentelemetry-instrument passes over."""
    if not is_named(DISTRO):
        return None
    base: Any = import_module("opentelemetry.instrumentation.distro").BaseDistro

    class Distro(base):  # type: ignore[misc]
        """Names our configurator, and the stable semantic conventions for HTTP, where nothing else is set."""

        def _configure(self, **kwargs: Any) -> None:
            os.environ.update(defaults(os.environ))

    return Distro()


class Configurator:
    """Configures `clew` from the environment, and switches on its integrations."""

    def configure(self, **kwargs: Any) -> None:
        """Configure where we are named; where we are not, leave it to the configurator that would act without us.

        Raises:
            ConfigurationError: Settings are wrong, and ``CLEW_STRICT`` is true.
        """
        if is_named(CONFIGURATOR):
            configure()
            return
        for point in entry_points(group="opentelemetry_configurator"):
            if point.name != NAME:
                point.load()().configure(**kwargs)
                return
