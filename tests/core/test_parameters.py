"""A measured function takes what the function takes, gives what it gives, and refuses what it refuses."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import Recorded

import clew

NAMES = st.lists(
    # among them names that the wrapper itself uses
    st.sampled_from(
        ["a", "b", "self", "binding", "shard", "start", "function", "clock", "p0", "p1", "k0", "args", "é"]
    ),
    unique=True,
    max_size=6,
)


@st.composite
def signatures(draw: st.DrawFn) -> str:
    """Return the parameters of a function as they are written."""
    names = draw(NAMES)
    kinds = sorted(draw(st.lists(st.integers(0, 2), min_size=len(names), max_size=len(names))))
    first_default = draw(st.integers(0, 6))
    written: list[str] = []
    for place, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        if kind == 2 and 2 not in kinds[:place]:
            written.append(draw(st.sampled_from(["*", "*rest"])))
        has_default = place >= first_default if kind < 2 else draw(st.booleans())
        written.append(f"{name}='{name} by default'" if has_default else name)
        if kind == 0 and (place + 1 == len(kinds) or kinds[place + 1] != 0):
            written.append("/")
    if draw(st.booleans()) and draw(st.booleans()):
        written.append("**others")
    return ", ".join(written)


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[int], dict[str, int]]:
    keywords = draw(NAMES)
    return draw(st.lists(st.integers(0, 9), max_size=5)), {name: number for number, name in enumerate(keywords)}


def made(text: str, name: str) -> Callable[..., Any]:
    space: dict[str, Any] = {}
    exec(text, space)
    return space[name]  # type: ignore[no-any-return]


def outcome(function: Callable[..., Any], args: list[int], kwargs: dict[str, int]) -> Any:
    try:
        found = function(*args, **kwargs)
        return asyncio.run(found) if inspect.iscoroutine(found) else found
    except TypeError as error:
        return str(error)


several_calls = st.lists(calls(), min_size=1, max_size=5)


def agree(define: str, signature: str, several: list[tuple[list[int], dict[str, int]]]) -> int:
    """Call a function plain and measured, and return how often it took the arguments."""
    plain = made(f"{define} call({signature}):\n    return dict(locals())", "call")
    measured = clew.measure("call")(plain)
    assert inspect.signature(measured) == inspect.signature(plain)
    assert inspect.iscoroutinefunction(measured) == (define == "async def")
    taken = 0
    for args, kwargs in several:
        found = outcome(plain, args, kwargs)
        assert outcome(measured, args, kwargs) == found
        taken += isinstance(found, dict)
    return taken


@pytest.mark.parametrize("define", ["def", "async def"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(signature=signatures(), several=several_calls)
def test_any_parameters(
    recorded: Recorded, define: str, signature: str, several: list[tuple[list[int], dict[str, int]]]
) -> None:
    before = recorded.calls("call").get(None, 0)
    taken = agree(define, signature, several)
    assert recorded.calls("call").get(None, 0) == before + taken


@pytest.mark.parametrize("define", ["def", "async def"])
@given(signature=signatures(), several=several_calls)
def test_any_parameters_without_telemetry(
    define: str, signature: str, several: list[tuple[list[int], dict[str, int]]]
) -> None:
    agree(define, signature, several)


def test_a_call_that_python_refuses_is_no_run(recorded: Recorded) -> None:
    @clew.measure("buy")
    def buy(cart: str, *, quickly: bool = False) -> str:
        return cart

    with pytest.raises(TypeError, match=r"buy\(\) got an unexpected keyword argument 'nope'"):
        buy("cart", nope=1)  # type: ignore[call-arg]
    assert recorded.calls("buy") == {}
    assert buy(cart="cart", quickly=True) == "cart"
    assert recorded.calls("buy") == {None: 1}


def test_a_default_that_is_one_object_stays_that_object(recorded: Recorded) -> None:
    default: list[int] = []

    @clew.measure("collect")
    def collect(value: int, into: list[int] = default, *, also: list[int] = default) -> list[int]:
        assert into is also
        into.append(value)
        return into

    assert collect(1) is default
    assert default == [1]


def test_the_traceback_shows_the_line_that_calls(recorded: Recorded) -> None:
    @clew.measure("fail")
    def fail(value: int) -> None:
        raise ValueError(value)

    with pytest.raises(ValueError, match="1"):
        fail(1)
    with pytest.raises(ValueError, match="7") as raised:
        fail(7)
    shown = "".join(traceback.format_exception(raised.value))
    assert "result = function(p0)" in shown
    assert "raise ValueError(value)" in shown
    frames = [frame for frame, _ in traceback.walk_tb(raised.value.__traceback__)]
    assert frames[1].f_locals["value"] == 7
    assert all(not name.isidentifier() for name in frames[1].f_locals if name != "value")
