"""All settings, read at once, and everything that is wrong reported in one error."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.resources import Resource

from clew.diagnostics import warn_once
from clew.settings.clew_variables import CLEW_SETTINGS, read_clew_variables
from clew.settings.model import Settings
from clew.settings.otel_variables import read_otel_variables
from clew.settings.problems import ConfigurationError, shown
from clew.settings.reader import InvalidValueError, SettingsReader
from clew.settings.resource import read_resource
from clew.settings.unknown_variables import find_unknown_variables

_NO_SETTINGS = ("views", "metric_exporters", "metric_readers", "span_processors", "log_processors")
"""The arguments of `clew.configure()` for the providers."""


def load_settings(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """Read the settings from `environ`, with keyword arguments of `clew.configure()` over them.

    Args:
        environ: The environment, `os.environ` as a rule.
        overrides: A keyword argument for each ``CLEW_*`` variable (``spans=True``), and `resource` (a `Resource` or a
            mapping of attributes). None is the same as not given.

    Raises:
        ConfigurationError: With all the wrong settings. Without `strict` (a setting as well) wrong variables are logged
            instead, all in one text, and treated as unset.
        TypeError: For a keyword argument that is no setting.
    """
    unknown = sorted(set(overrides) - set(CLEW_SETTINGS) - {"resource"})
    if unknown:
        allowed = ", ".join((*CLEW_SETTINGS, "resource", *_NO_SETTINGS))
        raise TypeError(f"no settings: {', '.join(unknown)}; clew.configure() takes {allowed}")
    reader = SettingsReader(environ)
    config_file = reader.read("OTEL_CONFIG_FILE", _readable, None)
    if config_file is not None:
        reader.ignore(_ignored_with_a_file)
    clew = read_clew_variables(reader, overrides)
    resource, instance_id_given = read_resource(reader, _checked_resource(reader, overrides.get("resource")))
    settings = Settings(
        config_file=config_file,
        resource=resource,
        instance_id_given=instance_id_given,
        **read_otel_variables(reader, clew["max_export_bytes"]),
        **clew,
    )
    find_unknown_variables(reader, environ)
    if reader.problems:
        error = ConfigurationError(reader.problems)
        if settings.strict or any(problem.name not in environ for problem in reader.problems):
            raise error
        warn_once(("settings", str(error)), "%s\nthese are treated as unset", error)
    for note in reader.notes:
        warn_once(("settings", note), "%s", note)
    return settings


def _ignored_with_a_file(name: str) -> bool:
    """Tell whether a variable is ignored beside ``OTEL_CONFIG_FILE``, as the specification says.

    ``OTEL_SDK_DISABLED`` is not, since the SDK reads it by itself.
    """
    return name.startswith("OTEL_") and name not in ("OTEL_CONFIG_FILE", "OTEL_SDK_DISABLED")


def _checked_resource(reader: SettingsReader, resource: Any) -> Resource | Mapping[str, Any] | None:
    if resource is None or isinstance(resource, Resource):
        return resource
    if isinstance(resource, Mapping):
        attributes: Mapping[str, Any] = resource  # pyright: ignore[reportUnknownVariableType]
        return attributes
    reader.add_problem("configure(resource=…)", shown(resource), "a Resource or a mapping of attributes")
    return None


def _readable(path: str) -> str | None:
    try:
        with open(path, "rb"):
            return os.path.abspath(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidValueError(f"a file that can be read ({reason})") from None
