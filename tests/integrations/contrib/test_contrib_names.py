"""What we read of others that measure HTTP requests is there, by these names, in the versions that are tried."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from types import CodeType
from typing import Any

import pytest

pytest.importorskip("opentelemetry.instrumentation.asgi", reason="contrib is not installed")

from clew.integrations._shared.other_instrumentations import ATTRIBUTES, READ


def codes(module: str) -> Iterator[CodeType]:
    """All code of a module: its own, and that of the functions in it, in any depth."""
    importlib.import_module(module)
    spec: Any = find_spec(module)
    waiting: list[CodeType] = [spec.loader.get_code(module)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting.extend(constant for constant in code.co_consts if isinstance(constant, CodeType))


@pytest.mark.parametrize(("module", "function"), READ)
def test_a_function_that_is_looked_for_has_the_variables_that_are_read(module: str, function: str) -> None:
    names, _ = READ[module, function]
    variables = [
        {*code.co_varnames, *code.co_cellvars, *code.co_freevars} for code in codes(module) if code.co_name == function
    ]
    assert any(set(names) <= found for found in variables), variables


@pytest.mark.parametrize("module", ATTRIBUTES)
def test_a_module_has_the_attributes_that_are_read(module: str) -> None:
    found: set[object] = set()
    for code in codes(module):
        found |= {*code.co_names, *(constant for constant in code.co_consts if isinstance(constant, str))}
    assert set(ATTRIBUTES[module]) <= found
