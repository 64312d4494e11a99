"""The pages about integrations: each page's example runs, and each integration has a page."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clew.integrations

PAGES = Path(__file__).resolve().parents[2] / "docs" / "integrations"
NEEDS = re.compile(r"<!-- needs: (.*) -->")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.glob("*.md")))
def test_the_example_of_a_page_runs(page: str) -> None:
    text = (PAGES / f"{page}.md").read_text()
    needs = NEEDS.search(text)
    for name in needs[1].split(", ") if needs else ():
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    code = "\n".join(BLOCK.findall(text))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_every_integration_has_a_page_with_an_example() -> None:
    modules = {
        path.stem
        for folder in clew.integrations.__path__
        for path in Path(folder).iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem[0] != "_"
    }
    assert {"asgi", "grpc"} <= modules
    for module in sorted(modules):
        assert BLOCK.search((PAGES / f"{module}.md").read_text()), module


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (PAGES / target).exists(), (page.name, target)
