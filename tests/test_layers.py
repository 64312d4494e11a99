"""The layers of the sources: a module imports only what stands below it, and no modules import one another in a circle.

All imports count, those within functions and those for types alone included.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from real_parts import ROOT

SOURCES = ROOT / "src"

LAYERS = (
    # from the top: what stands in one line does not know of one another; a folder is one box
    ("cli",),
    ("run",),
    ("testing", "local"),
    ("answers",),
    ("integrations",),
    ("integrations._shared",),
    ("(clew)",),
    ("telemetry",),
    ("by_name", "in_force", "providers"),
    ("_measure", "_request", "instruments", "exporters"),
    ("operations", "settings", "logs_bridge"),
    ("delivery", "metrics"),
    ("propagation",),
    ("logs",),
    ("attributes",),
    ("lifetime", "policy"),
    ("failures", "imports"),
    ("any_value",),
    ("diagnostics",),
    ("interpreter", "__about__"),
)

APART = {
    "local": {"answers", "__about__"},
    "answers": {"__about__"},
}
"""What may know of the named boxes alone, though others stand below it too."""


class Arrow(NamedTuple):
    """One module imports another one."""

    source: str
    target: str
    line: int


def modules() -> dict[str, Path]:
    """Each module of the package by its name."""
    found: dict[str, Path] = {}
    for path in (SOURCES / "clew").rglob("*.py"):
        name = ".".join(path.relative_to(SOURCES).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def arrows(sources: Mapping[str, str]) -> Iterator[Arrow]:
    """All imports of one module by another, given the source code of each."""
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [each if each in sources else node.module for each in whole]
            else:
                continue
            for target in targets:
                if target in sources and target != name:
                    yield Arrow(name, target, node.lineno)


def box_of(module: str) -> str:
    """The box of a module: its folder, or the module itself where it stands at the top."""
    boxes = {box for layer in LAYERS for box in layer}
    name = module.removeprefix("clew").removeprefix(".") or "(clew)"
    while name not in boxes and "." in name:
        name = name.rpartition(".")[0]
    return name


def broken(found: list[Arrow]) -> list[str]:
    """The arrows that break the layers, each with what is wrong."""
    height = {box: -number for number, layer in enumerate(LAYERS) for box in layer}
    said: list[str] = []
    for source, target, line in found:
        above, below = box_of(source), box_of(target)
        where = f"{source} (line {line}) imports {target}"
        if above not in height or below not in height:
            said.append(f"{where}: {above if above not in height else below} is in no layer")
        elif above != below and height[below] >= height[above]:
            said.append(f"{where}: {below} does not stand below {above}")
        elif above in APART and below != above and below not in APART[above]:
            said.append(f"{where}: {above} knows of {' and '.join(sorted(APART[above]))} alone")
    return sorted(said)


def circles(found: list[Arrow]) -> list[list[str]]:
    """The circles of modules: what is reached from a module that is reached from it, in order of names."""
    after: dict[str, set[str]] = {}
    for source, target, _ in found:
        after.setdefault(source, set()).add(target)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = after.get(waiting.pop(), set()) - seen
            seen |= new
            waiting.extend(new)
        return seen

    reach = {name: reached(name) for name in after}
    circle_of = {
        name: tuple(sorted(other for other in names if name in reach.get(other, set())))
        for name, names in reach.items()
        if name in names
    }
    return [list(names) for names in sorted(set(circle_of.values()))]


@pytest.fixture(scope="module")
def found() -> list[Arrow]:
    """The arrows between the modules of the package."""
    return list(arrows({name: path.read_text() for name, path in modules().items()}))


def test_a_module_imports_only_what_stands_below_it(found: list[Arrow]) -> None:
    assert broken(found) == []


def test_no_modules_import_one_another_in_a_circle(found: list[Arrow]) -> None:
    assert circles(found) == []


def test_no_module_is_over_400_lines() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: number for name, number in lengths.items() if number > 400} == {}


def test_all_kinds_of_imports_are_seen() -> None:
    source = """
import clew.metrics.sdk
from clew import diagnostics, request
if TYPE_CHECKING:
    from clew.run import start
def function():
    from clew.answers.source import Source
"""
    names = ("clew", "clew.metrics.sdk", "clew.diagnostics", "clew.run", "clew.run.start", "clew.answers.source")
    sources = {"clew.attributes": source, **dict.fromkeys(names, "")}
    assert [(arrow.target, arrow.line) for arrow in sorted(arrows(sources), key=lambda arrow: arrow.line)] == [
        ("clew.metrics.sdk", 2),
        ("clew.diagnostics", 3),
        ("clew", 3),
        ("clew.run.start", 5),
        ("clew.answers.source", 7),
    ]
    assert broken(list(arrows(sources))) == [
        "clew.attributes (line 2) imports clew.metrics.sdk: metrics does not stand below attributes",
        "clew.attributes (line 3) imports clew: (clew) does not stand below attributes",
        "clew.attributes (line 5) imports clew.run.start: run does not stand below attributes",
        "clew.attributes (line 7) imports clew.answers.source: answers does not stand below attributes",
    ]


def test_a_circle_and_what_hangs_on_it_are_told_apart() -> None:
    sources = {
        "clew.a": "import clew.b",
        "clew.b": "def function(): from clew.c import x",
        "clew.c": "if TYPE_CHECKING: import clew.a, clew.d",
        "clew.d": "",
        "clew.e": "import clew.a",
    }
    assert circles(list(arrows(sources))) == [["clew.a", "clew.b", "clew.c"]]


def test_a_box_that_stands_apart_knows_of_what_is_named_alone() -> None:
    sources = {
        "clew.local.store": "import clew.diagnostics, clew.answers.source",
        "clew.diagnostics": "",
        "clew.answers.source": "",
    }
    assert broken(list(arrows(sources))) == [
        "clew.local.store (line 1) imports clew.diagnostics: local knows of __about__ and answers alone"
    ]
