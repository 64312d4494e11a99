"""The pages: their examples run, their commands and links exist, and they name everything that is public.

A block fenced with ```python runs as a part of the test, all the blocks of a page in order and in one namespace, with
exporters that send nothing. One fenced with ```python no-run and a reason behind it is only compiled.
The pages about integrations have their own test beside the integrations.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clew
from clew.cli import main
from clew.settings.clew_variables import CLEW_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "examples").rglob("*.md")),
    )
}
TESTED_HERE = sorted(name for name in PAGES if not name.startswith("docs/integrations/"))

FENCED = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*) *(?P<mark>[^\n]*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL
)


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """The marks and the texts of the blocks of a page in one language."""
    return [
        (found["mark"], re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE))
        for found in FENCED.finditer(PAGES[page])
        if found["language"] == language
    ]


@pytest.mark.parametrize("page", [page for page in TESTED_HERE if ("" in dict(blocks(page, "python")))])
def test_the_examples_of_a_page_run(page: str, tmp_path: Path) -> None:
    program = tmp_path / "page.py"
    # in one file, so that functions have a source and pages of a module their names
    program.write_text("\n\n".join(text for mark, text in blocks(page, "python") if not mark))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "CLEW_"))}
    for signal in ("METRICS", "TRACES", "LOGS"):
        environment[f"OTEL_{signal}_EXPORTER"] = "none"
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(program)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_an_example_that_does_not_run_compiles_and_says_why() -> None:
    marked = [(page, mark, text) for page in TESTED_HERE for mark, text in blocks(page, "python") if mark]
    for page, mark, text in marked:
        compile(text, page, "exec")
        assert re.fullmatch(r"no-run \w.+", mark), (page, mark)


# ------------------------------------------------------------------------------------------------------- commands

COMMAND = re.compile(r"^(?:\$ )?clew ((?:[^\n\\]|\\\n)+)", re.MULTILINE)


def commands() -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for page in TESTED_HERE:
        for language in ("console", "sh", "bash", "shell"):
            for _, text in blocks(page, language):
                found += [(page, re.sub(r"\\\n|#.*", " ", line).split()) for line in COMMAND.findall(text)]
    return found


def test_every_command_on_the_pages_is_one_with_these_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands(), "no page shows a command"
    for page, (name, *rest) in commands():
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0, (page, name)
        explained = capsys.readouterr().out
        for word in rest[: rest.index("--")] if "--" in rest else rest:
            if word.startswith("--"):
                assert re.search(rf"{re.escape(word.partition('=')[0])}\b", explained), (page, name, word)


# ---------------------------------------------------------------------------------------------------------- links

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: str) -> set[str]:
    text = FENCED.sub("", PAGES[page])
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in HEADING.findall(text)}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    for link in LINK.findall(FENCED.sub("", PAGES[page])):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), (page, link)
        if anchor:
            assert anchor in anchors(path.resolve().relative_to(ROOT).as_posix()), (page, link)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/") and page != "docs/index.md"])
def test_the_index_or_an_index_of_its_own_leads_to_every_page(page: str) -> None:
    leading = PAGES["docs/index.md"] + PAGES["docs/integrations/README.md"]
    assert re.search(rf"\]\((integrations/)?{re.escape(Path(page).name)}(#[^)]*)?\)", leading), page


# ------------------------------------------------------------------------------------------------ what has to be named


@pytest.mark.parametrize("name", [name for name in clew.__all__ if not name.startswith("_")])
def test_every_public_name_is_on_a_page(name: str) -> None:
    assert any(f"clew.{name}" in text for page, text in PAGES.items() if page.startswith("docs/")), name


@pytest.mark.parametrize("variable", [setting.variable for setting in CLEW_SETTINGS.values()])
def test_every_setting_is_in_the_table(variable: str) -> None:
    assert f"| `{variable}` |" in PAGES["docs/configuration.md"]


def test_the_pages_name_no_setting_that_does_not_exist() -> None:
    known = {setting.variable for setting in CLEW_SETTINGS.values()}
    for page in TESTED_HERE:
        for name in re.findall(r"\bCLEW_[A-Z_]+\b(?!…)", PAGES[page]):
            assert name in known or name.startswith("CLEW_TEST_") or name == "CLEW_", (page, name)


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "collector-config").iterdir()))
def test_every_collector_configuration_is_explained(file: str) -> None:
    assert file in PAGES["docs/collector.md"]


EVENT = re.compile(r"""\bcount\(\s*f?"([a-z_.{}' ,()]+)\"""")


def events() -> set[str]:
    """Every name that the sources count under, and the ones of the delivery, which are in a table."""
    from clew.delivery.destination import _EVENTS

    found: set[str] = set(_EVENTS.values())
    for path in (ROOT / "src/clew").rglob("*.py"):
        source = path.read_text()
        found.update(name for name in EVENT.findall(source) if "{" not in name)
        found.update(f"task.{what}_failed" for what in re.findall(r"not_handled\(\"(\w+)\"", source))
    return found


@pytest.mark.parametrize("event", sorted(events()))
def test_every_event_that_is_counted_is_explained(event: str) -> None:
    assert f"| `{event}` |" in PAGES["docs/metrics.md"]


@pytest.mark.parametrize(
    "event", sorted(set(re.findall(r"^\| `([a-z_.]+)` \|", PAGES.get("docs/metrics.md", ""), re.MULTILINE)))
)
def test_every_name_on_the_page_of_metrics_is_in_the_sources(event: str) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "src/clew").rglob("*.py"))
    assert f'"{event}"' in sources or event.endswith((".failed", "_failed")) or event in sources, event


def test_the_messages_explained_are_the_ones_in_the_sources() -> None:
    section = PAGES["docs/troubleshooting.md"].partition("## What is logged once")[2].partition("## Processes")[0]
    messages = re.findall(r"^\| `(.+?)`(?: \(.*\))? \|", section, re.MULTILINE)
    assert messages
    sources = "".join(path.read_text() for path in (ROOT / "src/clew").rglob("*.py"))
    sources = re.sub(r"\"\n\s*\"", "", sources)
    for message in messages:
        for piece in re.split("…|metric points", message):
            assert piece.strip() in sources, message


ONE_FOR_EACH = {"cli", "integrations", "answers/questions", "answers/text"}
FOLDERS = sorted(
    {str(path.parent.relative_to(ROOT / "src/clew")) for path in (ROOT / "src/clew").rglob("__init__.py")}
    - ONE_FOR_EACH
)
"""Of the sources; but for those that have one module for each of many things: a command, a framework, a question."""


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_map_of_the_sources_names_every_module(folder: str) -> None:
    modules = {path.name for path in (ROOT / "src/clew" / folder).glob("*.py") if path.name != "__init__.py"}
    assert [name for name in sorted(modules) if f"`{name}`" not in PAGES["CONTRIBUTING.md"]] == []


def test_the_map_of_the_sources_names_no_module_that_is_gone() -> None:
    there = {path.name for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.py")}
    assert set(re.findall(r"`(?:\w+/)*(\w+\.py)`", PAGES["CONTRIBUTING.md"])) <= there
