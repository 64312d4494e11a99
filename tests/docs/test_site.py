"""The site: it builds without a warning, and its reference has every public name."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clew
import clew.testing

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Sphinx needs Python 3.11")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-c", "docs"]
    command += ["-d", str(tmp_path_factory.mktemp("doctrees")), ".", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def documented(site: Path) -> set[str]:
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        found = InventoryFile.load(file, "", lambda base, place: place)
    return {name for kind, names in found.items() if kind.startswith("py:") for name in names}


def public_names() -> set[str]:
    names = {f"clew.{name}" for name in clew.__all__ if not name.startswith("_")}
    names |= {f"clew.testing.{name}" for name in clew.testing.__all__}
    for page in (ROOT / "docs/integrations").glob("*.md"):
        if (ROOT / f"src/clew/integrations/{page.stem}.py").is_file():
            module = importlib.import_module(f"clew.integrations.{page.stem}")
            names |= {f"{module.__name__}.{name}" for name in getattr(module, "__all__", ())}
    return names


def test_every_public_name_is_in_the_reference(documented: set[str]) -> None:
    assert len(public_names()) > 50
    assert public_names() - documented == set()


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = [path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))]
    assert [page for page in pages if not (site / page.with_suffix(".html")).is_file()] == []


def test_the_site_asks_no_other_host_for_anything(site: Path) -> None:
    loaded = re.compile(r"""<(script|img|iframe)[^>]* src=["']?(https?:)?//|<link[^>]* href=["']?(https?:)?//""")
    assert [page.name for page in site.rglob("*.html") if loaded.search(page.read_text())] == []
