"""How Sphinx makes the site out of the pages, which are written to be read as files just as well.

The sources are those of the whole repository, so that a link from a page to the README or an example is one link in
both places.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx

project = "clew"
author = "The clew maintainers"
project_copyright = "The clew maintainers"
version = release = metadata.version("clew")

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "examples/README.md"]
exclude_patterns = ["docs/conf.py"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page may begin with a small heading

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": False}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
default_role = "py:obj"  # a name in single backticks is a link where the site knows it

html_theme = "furo"
html_title = f"clew {version}"
html_show_sphinx = False
html_copy_source = False
pygments_style = "default"

_CONTENTS = """
```{toctree}
:hidden:
:caption: Start
/README
tutorial
```
```{toctree}
:hidden:
:caption: Measure
measuring
requests
instruments
exemplars
logs
without-code
integrations/README
testing
```
```{toctree}
:hidden:
:caption: See
local
collector
metrics
troubleshooting
```
```{toctree}
:hidden:
:caption: Look up
configuration
reference
performance
/CHANGELOG
/CONTRIBUTING
/SECURITY
/examples/README
```
"""
"""The site's contents, which a reader of the file `index.md` has as a table."""

_INTEGRATIONS = """
```{toctree}
:hidden:
:glob:
*
```
"""


def _add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    if page == root_doc:
        source[0] += _CONTENTS
    elif page == "docs/integrations/README":
        source[0] += _INTEGRATIONS


def _fence_code(app: Sphinx, what: str, name: str, documented: object, options: object, lines: list[str]) -> None:
    """Turn code in fences, as docstrings have it, into what Sphinx reads."""
    is_code = False
    for number, line in enumerate(lines):
        if line.startswith("```"):
            lines[number] = "" if is_code else ".. code-block:: " + line.strip("`") + "\n"
            is_code = not is_code
        elif is_code:
            lines[number] = f"    {line}"
    lines[:] = "\n".join(lines).split("\n")


def _begin_at_the_index(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        place = f"{root_doc}.html"
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={place}"><a href="{place}">clew</a>\n'
        (Path(app.outdir) / "index.html").write_text(page)


def setup(app: Sphinx) -> None:
    """Give the pages their place in the contents, and the site its first page."""
    app.connect("source-read", _add_contents)
    app.connect("autodoc-process-docstring", _fence_code)
    app.connect("build-finished", _begin_at_the_index)
