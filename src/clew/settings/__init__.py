"""What configures `clew`: the standard ``OTEL_*`` variables, a few ``CLEW_*`` ones, arguments of `clew.configure()`."""

from clew.settings.load import load_settings
from clew.settings.model import BatchSettings, Limits, Settings
from clew.settings.otlp import OtlpSettings, Signal
from clew.settings.problems import ConfigurationError, Problem
from clew.settings.resource import identity_in_child

__all__ = [
    "BatchSettings",
    "ConfigurationError",
    "Limits",
    "OtlpSettings",
    "Problem",
    "Settings",
    "Signal",
    "identity_in_child",
    "load_settings",
]
