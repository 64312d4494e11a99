"""The reader of environment variables, which collects every wrong one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from clew.settings.problems import Problem, shown

T = TypeVar("T")


class InvalidValueError(ValueError):
    """Raised by a parser; its text says what is allowed."""


class SettingsReader:
    """Reads the variables of one environment, and collects what is wrong with them.

    An empty variable counts as unset, as OpenTelemetry's specification says.

    Attributes:
        names_read: The names of all variables that have been asked for.
        problems: What is wrong.
        notes: What is to be logged about settings that are not wrong.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.names_read: set[str] = set()
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def text(self, name: str) -> str | None:
        """Return the text of a variable without the white space around it; None where it is unset or empty."""
        self.names_read.add(name)
        return self._environ.get(name, "").strip() or None

    def ignore(self, ignored: Callable[[str], bool]) -> None:
        """Treat the variables for whose name `ignored` is true as unset from now on."""
        self._environ = {name: value for name, value in self._environ.items() if not ignored(name)}

    def read(
        self,
        names: str | Iterable[str],
        parse: Callable[[str], T],
        default: T,
        *,
        show: Callable[[object], str] = shown,
    ) -> T:
        """Return the value of the first of these variables that is set and valid; each invalid one is a problem."""
        for name in (names,) if isinstance(names, str) else names:
            value = self.text(name)
            if value is not None:
                try:
                    return parse(value)
                except InvalidValueError as error:
                    self.add_problem(name, show(value), str(error))
        return default

    def add_problem(self, name: str, value: str, allowed: str) -> None:
        """Add a problem, unless it is there already: a variable for all signals is read for each of them."""
        problem = Problem(name, value, allowed)
        if problem not in self.problems:
            self.problems.append(problem)

    def add_note(self, text: str) -> None:
        """Add what is to be logged about a setting that is not wrong."""
        if text not in self.notes:
            self.notes.append(text)
