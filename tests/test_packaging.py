"""What is installed: metadata, extras, entry points, the files of the wheel and of the source archive, imports."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest

import clew

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "clew"
PLUGIN = "_clew_pytest_plugin.py"  # beside the package, since pytest loads it before anybody needs the package
IMPORTED_AS = {"grpcio": "grpc"}
INTEGRATIONS = sorted(
    path.stem
    for path in (ROOT / "docs/integrations").glob("*.md")
    if any((PACKAGE / "integrations" / name).exists() for name in (f"{path.stem}.py", f"{path.stem}/__init__.py"))
)

PROTOCOLS_AND_FRAMEWORKS = (
    *("grpc", "requests", "urllib3", "google.protobuf", "sqlite3", "yaml"),
    *("rich", "starlette", "fastapi", "uvicorn", "httpx", "aiohttp", "django", "flask", "asyncio"),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def described(wheel: Path) -> Message:
    """The metadata of the wheel, which cannot be older than pyproject.toml."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_version_is_one(described: Message) -> None:
    assert described["Version"] == clew.__version__ == metadata.version("clew")


def test_the_metadata_say_what_it_is_and_what_it_needs(described: Message) -> None:
    assert described["Name"] == "clew"
    assert described["License-Expression"] == "Apache-2.0"
    assert described["Requires-Python"] == ">=3.10"
    needed = {
        re.split(r"[ <>=!~;\[]", line)[0] for line in described.get_all("Requires-Dist", []) if "extra ==" not in line
    }
    assert needed == {"opentelemetry-api", "opentelemetry-sdk", "opentelemetry-exporter-otlp"}


def test_the_extras_are_local_config_pytest_each_integration_and_all_of_them(described: Message) -> None:
    assert set(described.get_all("Provides-Extra", [])) == {"local", "config", "pytest", "all", *INTEGRATIONS}


def test_the_extra_all_brings_what_every_other_extra_brings(described: Message) -> None:
    brought: dict[str, set[str]] = {}
    for line in described.get_all("Requires-Dist", []):
        requirement, _, extra = line.partition("; extra == ")
        brought.setdefault(extra.strip("'\""), set()).add(requirement)
    assert brought["all"] == set().union(*(brought[extra] for extra in brought if extra))


def test_every_entry_point_leads_to_something() -> None:
    points = list(metadata.distribution("clew").entry_points)
    assert {(point.group, point.name) for point in points} >= {
        ("console_scripts", "clew"),
        ("opentelemetry_configurator", "clew"),
        ("opentelemetry_distro", "clew"),
        ("opentelemetry_propagator", "request_id"),
        ("pytest11", "clew"),
    }
    for point in points:
        found = point.load()
        assert callable(found) or point.group == "pytest11", point


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    there = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    there.add(PLUGIN)
    assert names == {name for name in there if "__pycache__" not in name}
    assert "clew/py.typed" in names
    assert {Path(name).suffix for name in names} <= {".py", ".typed"}


def test_the_source_archive_holds_no_foreign_files(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]
    assert {name.partition("/")[0] for name in names} <= {
        *("src", "tests", "docs", "examples", "collector-config", "benchmarks", "parts", "requirements"),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "Makefile"),
        *("pyproject.toml", "PKG-INFO", ".gitignore"),
    }
    kinds = {".py", ".typed", ".md", ".rst", ".svg", ".yaml", ".toml", ".txt", ".sh", ".json", ".ini"}
    kinds |= {".html", ".js", ".css"}
    assert [name for name in names if "/" in name and Path(name).suffix not in kinds] == []
    assert {"README.md", "CHANGELOG.md", "LICENSE", "src/clew/py.typed"} <= set(names)


def test_importing_clew_brings_in_no_protocol_no_framework_and_no_database() -> None:
    program = f"import sys, clew; print(sorted(set({PROTOCOLS_AND_FRAMEWORKS!r}).intersection(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True)
    assert done.stdout == "[]\n"


BLOCKED = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
try:
    import clew.integrations.{module}
except ImportError as error:
    assert isinstance(error.__cause__, ImportError)
    print(error)
else:
    print("imported")
"""


def frameworks_of(module: str, described: Message) -> set[str]:
    """What the extra of an integration brings: nothing for a protocol, or for a part of the standard library."""
    return {
        re.split(r"[ <>=!~;\[]", line)[0]
        for line in described.get_all("Requires-Dist", [])
        if re.search(rf"extra == .{module}.$", line)
    }


@pytest.mark.parametrize("module", INTEGRATIONS)
def test_an_integration_whose_framework_is_missing_names_its_extra(module: str, described: Message) -> None:
    frameworks = frameworks_of(module, described)
    program = BLOCKED.format(blocked={IMPORTED_AS.get(name, name) for name in frameworks}, module=module)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True)
    if not frameworks:
        assert done.stdout == "imported\n"
        return
    (framework,) = frameworks
    message = f"clew.integrations.{module} needs {framework}: pip install 'clew[{module}]'\n"
    assert done.stdout.casefold() == message.casefold()


def test_no_module_of_the_core_imports_an_integration_s_framework_or_the_local_collector() -> None:
    core = [path for path in PACKAGE.rglob("*.py") if not {"integrations", "local", "answers", "cli"} & set(path.parts)]
    for path in core:
        for line in path.read_text().splitlines():
            assert not re.match(
                r"\s*(from|import) (clew\.(local|answers|cli)|starlette|fastapi|django|flask|celery|rich|sqlite3)\b",
                line,
            ), path
