"""Wrong settings: every one of them found in one reading, and said together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_LONGEST_SHOWN = 120
"""In characters: of a longer value the beginning is shown."""


class InvalidValueError(ValueError):
    """Raised by a parser; its text says what is allowed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One wrong setting: its `name`, its `value` as it may be shown (secrets masked), and what is `allowed`."""

    name: str
    value: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.name} is {self.value}; allowed: {self.allowed}"


class ConfigurationError(ValueError):
    """Raised by `clew.configure()` with all the wrong settings at once.

    `problems` has one `Problem` for each; the message lists them, one a line.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        number = len(self.problems)
        heading = "a wrong setting" if number == 1 else f"{number} wrong settings"
        return "\n  ".join([f"{heading}:", *map(str, self.problems)])


ConfigurationError.__module__ = "clew"  # where it is public, and what its traceback says


def shown(value: object) -> str:
    """Return the value for a message: quoted, control characters escaped, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}… ({len(text)} characters)"


def masked_pairs(value: object) -> str:
    """Return ``name=value`` pairs for a message, with the names alone."""
    names = [pair.partition("=") for pair in str(value).split(",")]
    return shown(",".join(f"{name.strip()}=***" if equals else "***" for name, equals, _ in names))


def masked_url(value: object) -> str:
    """Return a URL for a message, without the user, the password and the query that may stand in it."""
    address, question, _ = str(value).partition("?")
    scheme, separator, rest = address.partition("://")
    authority, slash, path = rest.partition("/")
    _, at, host = authority.rpartition("@")
    hidden = f"{scheme}{separator}***@{host}{slash}{path}" if at else address
    return shown(f"{hidden}?***" if question else hidden)


class SettingsReader:
    """One reading of an environment: takes values out of it and remembers what was wrong with them.

    An empty value is an unset one, as the specification of the OpenTelemetry variables has it.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.asked: set[str] = set()
        """The names of all variables that were asked for."""
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def text(self, name: str) -> str | None:
        """Return the value of a variable without the white space around it, or None where it is unset or empty."""
        self.asked.add(name)
        return self._environ.get(name, "").strip() or None

    def leave_out(self, ignored: Callable[[str], bool]) -> None:
        """Take the variables that are `ignored` for unset from now on."""
        self._environ = {name: value for name, value in self._environ.items() if not ignored(name)}

    def take(
        self,
        names: str | Iterable[str],
        parse: Callable[[str], T],
        default: T,
        *,
        show: Callable[[object], str] = shown,
    ) -> T:
        """Return the parsed value of the first of these variables that is set and fit; each unfit one is a problem."""
        for name in (names,) if isinstance(names, str) else names:
            value = self.text(name)
            if value is not None:
                try:
                    return parse(value)
                except InvalidValueError as unfit:
                    self.wrong(name, show(value), str(unfit))
        return default

    def wrong(self, name: str, value: str, allowed: str) -> None:
        """Remember a problem, each once: a general variable is read for every signal."""
        problem = Problem(name, value, allowed)
        if problem not in self.problems:
            self.problems.append(problem)

    def note(self, text: str) -> None:
        """Remember what is to be said about a setting that is not wrong."""
        if text not in self.notes:
            self.notes.append(text)
