"""Wrong settings: all of them are found in one reading, and reported together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_LONGEST_SHOWN = 120
"""In characters: of a longer value the beginning is shown."""


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
