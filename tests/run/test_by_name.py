"""``CLEW_MEASURE``: functions measured by their names, their modules otherwise as they would be."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import os
import py_compile
import subprocess
import sys
import textwrap
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from recorded import Recorded

import clew
from clew import by_name, diagnostics

Import = Callable[..., ModuleType]

SOURCE = '''"""The orders of a shop."""

from __future__ import annotations

import functools
import typing
from os.path import join

TABLE = {}


def listed(function):
    TABLE[function.__name__] = function
    return function


def place(cart: Cart) -> int:
    """Place an order."""
    return 1


@listed
def registered(cart: Cart = None):
    return inspect_me(cart)


@functools.lru_cache
@listed
def cached(number):
    return number


@typing.overload
def typed(value: int) -> int: ...
@typing.overload
def typed(value: str) -> str: ...
def typed(value):
    return value


async def fetch():
    return 2


def numbers():
    yield 1
    yield 2


async def later():
    yield 3


def _inner():
    return 4


def inspect_me(cart):
    return inspect_it(cart)


inspect_it = lambda cart: cart  # noqa: E731

try:
    import there_is_no_such_module
except ImportError:

    def fallback():
        return 5

if True:

    class Store:
        place = None

        def __init__(self):
            self.kept = 6

        def get(self):
            return self.kept

        @staticmethod
        def static():
            return 7

        @classmethod
        def made(cls):
            return cls()

        @property
        def size(self):
            return 8

        @functools.cached_property
        def once(self):
            return 9

        def _hidden(self):
            return 10

        class Shelf:
            def top(self):
                return super().__hash__() and 11

    class _Private:
        def get(self):
            return 12


class Cart:
    pass


def outer():
    def nested():
        raise ValueError("from the inside")

    return nested()
'''
PUBLIC = {
    *("listed", "place", "registered", "cached", "typed", "fetch", "numbers", "later", "inspect_me", "fallback"),
    *("Store.get", "Store.static", "Store.made", "Store.Shelf.top", "outer"),
}


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(diagnostics, "_warned", set())
    others = _taken_away()  # the shop of examples/, which other tests have imported
    yield
    by_name.measure_by_name(())
    _taken_away()
    sys.modules.update(others)


def _taken_away() -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "shop"}


@pytest.fixture
def import_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """Import ``shop.orders`` with this source, the names given being measured."""

    def write_and_import(*names: str, source: str = SOURCE, path: Path = tmp_path) -> ModuleType:
        (path / "shop").mkdir(exist_ok=True)
        (path / "shop" / "__init__.py").touch()
        (path / "shop" / "orders.py").write_text(source)
        monkeypatch.syspath_prepend(str(path))
        importlib.invalidate_caches()
        by_name.measure_by_name(f"shop.orders:{name}" for name in names)
        return importlib.import_module("shop.orders")

    return write_and_import


def runs(recorded: Recorded, operation: str) -> int:
    return sum(recorded.calls(operation).values())


def measured_names(module: ModuleType) -> set[str]:
    """What in a module, and in its classes, is measured."""
    found: set[str] = set()

    def look(holder: Any, prefix: str) -> None:
        for name, value in vars(holder).items():
            function = getattr(value, "__func__", value)
            if inspect.isclass(value) and value.__module__ == module.__name__:
                look(value, f"{prefix}{name}.")
            elif getattr(function, "__module__", None) == module.__name__ and hasattr(function, "__wrapped__"):
                while hasattr(function, "__wrapped__") and not inspect.isfunction(function):
                    function = function.__wrapped__  # what lru_cache made
                if hasattr(function, "__wrapped__"):
                    found.add(prefix + name)

    look(module, "")
    return found


def test_a_star_is_the_public_functions_and_methods_that_a_module_defines(import_shop: Import) -> None:
    assert measured_names(import_shop("*")) == PUBLIC


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("place", {"place"}),
        ("_inner", {"_inner"}),
        ("Store.get", {"Store.get"}),
        ("Store", {"Store.get", "Store.static", "Store.made", "Store.Shelf.top"}),
        ("Store.Shelf", {"Store.Shelf.top"}),
        ("Store.__init__", {"Store.__init__"}),
        ("_Private", {"_Private.get"}),
        ("_Private.get", {"_Private.get"}),
        ("fallback", {"fallback"}),
    ],
)
def test_a_name_is_a_function_a_method_or_a_class(name: str, measured: set[str], import_shop: Import) -> None:
    assert measured_names(import_shop(name)) == measured


def test_what_is_measured_works_as_it_did_and_each_form_is_recorded(import_shop: Import, recorded: Recorded) -> None:
    import asyncio

    shop: Any = import_shop("*")
    assert (shop.place(None), shop.cached(1), shop.typed("a"), shop.fallback()) == (1, 1, "a", 5)
    assert (list(shop.numbers()), asyncio.run(shop.fetch())) == ([1, 2], 2)
    assert asyncio.run(_all(shop.later())) == [3]
    store = shop.Store.made()
    assert (store.get(), store.static(), store.size, store.once, store.Shelf().top()) == (6, 7, 8, 9, 11)
    assert runs(recorded, "shop.orders.place") == 1
    for name in ("cached", "typed", "fallback", "numbers", "fetch", "later", "Store.made", "Store.get", "Store.static"):
        assert runs(recorded, f"shop.orders.{name}") == 1, name


async def _all(values: Any) -> list[Any]:
    return [value async for value in values]


def test_what_a_framework_registers_at_import_is_measured_and_innermost(
    import_shop: Import, recorded: Recorded
) -> None:
    shop: Any = import_shop("*")
    assert shop.TABLE["registered"] is shop.registered
    shop.TABLE["registered"](None)
    assert runs(recorded, "shop.orders.registered") == 1
    shop.cached(5)
    shop.cached(5)
    assert runs(recorded, "shop.orders.cached") == 1


def test_lines_signatures_documentation_and_sources_stay(import_shop: Import) -> None:
    plain: dict[str, Any] = {"__name__": "shop.orders"}
    exec(compile(SOURCE, "orders.py", "exec", dont_inherit=True), plain)
    shop: Any = import_shop("*")
    assert shop.__doc__ == "The orders of a shop."
    assert vars(shop).keys() - {"__builtins__"} >= plain.keys() - {"__builtins__"}
    assert {name for name in vars(shop) if not name.startswith("__")} == {n for n in plain if not n.startswith("__")}
    for name in ("place", "registered", "fetch", "numbers", "later"):
        assert str(inspect.signature(getattr(shop, name))) == str(inspect.signature(plain[name]))
        assert getattr(shop, name).__doc__ == plain[name].__doc__
        line = plain[name].__code__.co_firstlineno
        assert inspect.unwrap(getattr(shop, name)).__code__.co_firstlineno == line
        assert inspect.getsourcelines(getattr(shop, name))[1] == line
    assert inspect.iscoroutinefunction(shop.fetch)
    assert inspect.isgeneratorfunction(shop.numbers)
    assert inspect.isasyncgenfunction(shop.later)
    assert shop.__spec__.origin == shop.__file__
    assert shop.__loader__.get_source("shop.orders") == SOURCE


def test_a_traceback_shows_the_lines_of_the_source(import_shop: Import) -> None:
    shop: Any = import_shop("*")
    with pytest.raises(ValueError, match="from the inside") as raised:
        shop.outer()
    last = traceback.extract_tb(raised.tb)[-1]
    assert (Path(last.filename).name, last.line) == ("orders.py", 'raise ValueError("from the inside")')
    assert SOURCE.splitlines()[(last.lineno or 0) - 1].strip() == last.line


def test_an_import_that_fails_fails_as_ever(import_shop: Import, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        import_shop("*", source="def work():\n    return 1\n\n1 / 0\n")
    frames = [Path(frame.filename).name for frame in traceback.extract_tb(raised.tb)]
    assert frames[-1] == "orders.py"
    assert not {"by_name.py", "imports.py"} & set(frames)
    with pytest.raises(SyntaxError, match=r"orders\.py"):
        import_shop("*", source="def work(:\n")


def test_a_function_that_is_decorated_already_is_measured_once(import_shop: Import, recorded: Recorded) -> None:
    source = """
import clew
from clew import measure

@clew.measure
def first(): return 1

@measure("second one", attributes={"tier": "gold"})
def second(): return 2
"""
    shop: Any = import_shop("*", source=source)
    shop.first()
    shop.second()
    assert (runs(recorded, "shop.orders.first"), runs(recorded, "second one")) == (1, 1)
    assert runs(recorded, "shop.orders.second") == 0


# ------------------------------------------------------------------------------------------------ what is not measured


@pytest.mark.parametrize("name", ["plcae", "Store.size", "Store.once", "inspect_it", "join", "Store.nothing", "TABLE"])
def test_a_name_that_matches_nothing_is_logged_once(
    name: str, import_shop: Import, caplog: pytest.LogCaptureFixture
) -> None:
    shop = import_shop(name, "place")
    importlib.reload(shop)
    (logged,) = [record.getMessage() for record in caplog.records if record.name == "clew"]
    assert logged.startswith("CLEW_MEASURE: shop.orders defines no function or method")
    assert name in logged
    assert measured_names(shop) == {"place"}


def test_a_module_that_is_imported_already_is_logged_once_and_left(
    import_shop: Import, caplog: pytest.LogCaptureFixture
) -> None:
    shop = import_shop()
    for _ in range(2):
        by_name.measure_by_name(["shop.orders:*"])
    (logged,) = [record.getMessage() for record in caplog.records if record.name == "clew"]
    assert logged.startswith("CLEW_MEASURE: shop.orders is imported already")
    assert measured_names(shop) == set()


@pytest.mark.parametrize(("name", "logged"), [("__main__", "is the program itself"), ("math", "is imported already")])
def test_what_can_never_be_measured_is_logged(name: str, logged: str, caplog: pytest.LogCaptureFixture) -> None:
    import math  # noqa: F401

    by_name.measure_by_name([f"{name}:*"])
    assert [record.getMessage() for record in caplog.records if logged in record.getMessage()]


def test_a_module_without_a_source_runs_and_is_logged(
    import_shop: Import, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "shopless.py"
    source.write_text("def work():\n    return 1\n")
    py_compile.compile(str(source), cfile=str(tmp_path / "shopless.pyc"))
    source.unlink()
    monkeypatch.syspath_prepend(str(tmp_path))
    by_name.measure_by_name(["shopless:*"])
    assert importlib.import_module("shopless").work() == 1
    assert "CLEW_MEASURE: shopless has no source in Python" in caplog.text


# --------------------------------------------------------------------------------------- how modules come to be there


def test_the_cache_of_compiled_modules_is_the_plain_one(import_shop: Import, tmp_path: Path) -> None:
    shop = import_shop("*")
    assert measured_names(shop)
    cached = Path(importlib.util.cache_from_source(str(tmp_path / "shop" / "orders.py")))
    assert not cached.exists()
    del sys.modules["shop.orders"]
    assert measured_names(import_shop()) == set()
    del sys.modules["shop.orders"]
    assert measured_names(import_shop("*")) == PUBLIC  # with a cache of the plain one beside it


def test_a_module_in_an_archive_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        archive.writestr("shop/__init__.py", "")
        archive.writestr("shop/orders.py", SOURCE)
        archive.writestr("shop/db.py", "def query():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "shop.zip"))
    by_name.measure_by_name(["shop.orders:*"])
    assert measured_names(importlib.import_module("shop.orders")) == PUBLIC
    assert measured_names(importlib.import_module("shop.db")) == set()


def test_a_package_and_a_module_in_another_encoding_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    text = "# -*- coding: latin-1 -*-\ndef greeting():\n    return 'gr\xfc\xdfe'\n"
    (tmp_path / "shop" / "__init__.py").write_bytes(text.encode("latin-1"))
    monkeypatch.syspath_prepend(str(tmp_path))
    by_name.measure_by_name(["shop:greeting"])
    shop = importlib.import_module("shop")
    assert shop.greeting() == "gr\xfc\xdfe"
    assert measured_names(shop) == {"greeting"}


def test_a_module_that_a_finder_of_another_brings_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the finders of editable installs do."""
    (tmp_path / "elsewhere.py").write_text("def work():\n    return 1\n")

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            if name == "shop_elsewhere":
                return importlib.util.spec_from_file_location(name, tmp_path / "elsewhere.py")
            return None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    by_name.measure_by_name(["shop_elsewhere:*"])
    assert measured_names(importlib.import_module("shop_elsewhere")) == {"work"}


def test_configure_takes_the_names_and_forgets_them_with_the_next(tmp_path: Path, import_shop: Import) -> None:
    telemetry = clew.configure(
        measure=["shop.orders:place"], metric_exporters=(), span_processors=(), log_processors=()
    )
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "orders.py").write_text(SOURCE)
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    try:
        shop = importlib.import_module("shop.orders")
        assert measured_names(shop) == {"place"}
        telemetry.shutdown()
        telemetry = clew.configure(metric_exporters=(), span_processors=(), log_processors=())
        del sys.modules["shop.orders"]
        assert measured_names(importlib.import_module("shop.orders")) == set()
    finally:
        telemetry.shutdown()
        sys.path.remove(str(tmp_path))


# ------------------------------------------------------------------------------------------------- in other processes


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "CLEW_"))},
        **{f"OTEL_{signal}_EXPORTER": "none" for signal in ("METRICS", "TRACES", "LOGS")},
        **variables,
    }
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )


def test_pytest_s_assertions_and_measured_modules_go_together(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def work():\n    return 1\n")
    (tmp_path / "test_shop.py").write_text(
        "import shop\n\n\ndef test_work():\n    assert hasattr(shop.work, '__wrapped__')\n    assert shop.work() == 2\n"
    )
    ended = run(
        tmp_path, "-m", "clew.cli", "run", "--", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        CLEW_MEASURE="shop:*",
    )  # fmt: skip
    assert "assert 1 == 2" in ended.stdout
    assert "hasattr" not in ended.stdout.partition("assert 1 == 2")[0].rpartition("E ")[2]


def test_coverage_counts_the_lines_of_a_measured_module(tmp_path: Path) -> None:
    pytest.importorskip("coverage")
    text = "def work(what):\n    if what:\n        return 1\n    return 2\n"
    (tmp_path / "shop.py").write_text(text)
    (tmp_path / "app.py").write_text("import shop\nshop.work(True)\n")
    command = ["-m", "clew.cli", "run", "--", sys.executable, "-m", "coverage", "run", "--include=shop.py", "app.py"]
    assert run(tmp_path, *command, CLEW_MEASURE="shop:*").stderr == ""
    report = run(tmp_path, "-m", "coverage", "report", "-m").stdout
    (line,) = [line for line in report.splitlines() if line.startswith("shop.py")]
    assert line.split() == ["shop.py", "4", "1", "75%", "4"]


@pytest.mark.parametrize(
    ("names", "logged"),
    [
        ("shop.nowhere:*", True),
        ("nothing_of_that_name:*", True),
        ("wsgiref.util:*", False),
        ("shop.orders:*", False),
    ],
)
def test_a_module_that_was_never_imported_is_logged_at_the_end_where_it_concerns_the_process(
    names: str, logged: bool, tmp_path: Path
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "orders.py").write_text("def work():\n    return 1\n")
    (tmp_path / "app.py").write_text("import shop.orders\n")
    ended = run(tmp_path, "-m", "clew.cli", "run", "--", sys.executable, "app.py", CLEW_MEASURE=names)
    assert ended.returncode == 0
    expected = f"CLEW_MEASURE: {names[:-2]} was never imported, so nothing in it was measured\n"
    assert ended.stderr == (expected if logged else "")


def test_the_main_module_is_not_measured_even_if_it_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        textwrap.dedent("""
            def work():
                return 1

            print(hasattr(work, "__wrapped__"))
        """)
    )
    ended = run(tmp_path, "-m", "clew.cli", "run", "--", sys.executable, "-m", "shop", CLEW_MEASURE="shop:*")
    assert ended.stdout == "False\n"


def test_names_that_match_nothing_are_logged_as_warnings(import_shop: Import, caplog: pytest.LogCaptureFixture) -> None:
    import_shop("nothing")
    assert [record.levelno for record in caplog.records if record.name == "clew"] == [logging.WARNING]
