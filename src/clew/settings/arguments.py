"""The arguments of `clew.configure()`, so that those of two calls can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clew.settings.problems import Problem, shown


def comparable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments as they are now: None is the same as not given, a list the same as a tuple."""
    return {name: _as_it_is_now(value) for name, value in arguments.items() if value is not None}


def _as_it_is_now(value: Any) -> Any:
    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return tuple(items)
    if isinstance(value, Mapping):
        attributes: Mapping[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return dict(attributes)
    return value


def differences(before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> Iterator[Problem]:
    """Return a problem for each argument that is another one than before; `what` says where those before are from."""
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            yield Problem(
                f"configure({name}=…)",
                shown(now.get(name)),
                f"{what}, {shown(before.get(name))}, until shutdown() has been called",
            )
