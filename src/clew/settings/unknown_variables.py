"""Variables that nothing reads: mistyped ones as a rule."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from opentelemetry import environment_variables as api
from opentelemetry.sdk import environment_variables as sdk

from clew.settings.clew_variables import CLEW_SETTINGS, PREFIX
from clew.settings.reader import SettingsReader

_OTEL = "OTEL_"
_OF_INSTRUMENTATIONS = ("OTEL_PYTHON_", "OTEL_INSTRUMENTATION_")  # which may read any such name
_SIMILARITY = 0.9  # of the letters in order: one or two are wrong


def find_unknown_variables(reader: SettingsReader, environ: Mapping[str, str]) -> None:
    """Find the variables that nothing reads; to be called once all others have been read.

    An unknown ``CLEW_*`` variable is a problem. One that is nearly an ``OTEL_*`` variable is only a note, since there
    are more of those than are read here.
    """
    _find_near_misses(reader, environ)
    known = [setting.variable for setting in CLEW_SETTINGS.values()]
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or reader.text(name) is None:
            continue
        near = difflib.get_close_matches(name, known, 1, 0.0)
        reader.add_problem(name, "no setting", f"perhaps {near[0]}; all of them: {', '.join(known)}")


def _find_near_misses(reader: SettingsReader, environ: Mapping[str, str]) -> None:
    read = {name for name in reader.names_read if name.startswith(_OTEL)}
    others = [value for module in (api, sdk) for name, value in vars(module).items() if name.startswith(_OTEL)]
    for name in sorted(environ):
        upper = name.upper()
        is_known = name in read or name in others or upper.startswith(_OF_INSTRUMENTATIONS)
        if is_known or not upper.startswith((_OTEL, PREFIX)) or name.startswith(PREFIX):
            continue
        if reader.text(name) is None:
            continue
        ours = [setting.variable for setting in CLEW_SETTINGS.values()]
        near = difflib.get_close_matches(upper, [*sorted(read), *ours], 1, _SIMILARITY)
        if near:
            reader.add_note(f"{name} is no variable that clew reads; perhaps {near[0]} is meant")
