"""The page about starting without code: its example runs, and it names all that is switched on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from real_parts import Program, free_port, listens
from run.conftest import Endpoint
from serving import Address

from clew.run.activation import INTEGRATIONS, SERVERS
from clew.run.start import defaults

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "without-code.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_does_what_the_page_says(start: Callable[..., Program], endpoint: Endpoint, tmp_path: Path) -> None:
    pytest.importorskip("flask")
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(block("python"))
    lines = [line.removeprefix("$ ") for line in block("console").splitlines()]
    (exported,) = [line.removeprefix("export ") for line in lines if line.startswith("export ")]
    (command,) = [line.removeprefix("clew run -- ") for line in lines if line.startswith("clew run -- ")]
    variables = dict(pair.split("=", 1) for pair in exported.split())
    port = free_port()
    program = start(*command.replace("8000", str(port)).split(), **variables)
    program.wait_until(lambda: listens(f"127.0.0.1:{port}"))
    response = Address("127.0.0.1", port).get("/articles/tea")
    assert response.body == b"tea costs 3"
    program.stop()
    name = response.one("X-Request-ID")
    assert [found["request_id"] for found in endpoint.logged("shown")] == [name]
    assert endpoint.request_ids("http.server.request.duration") == {name}
    assert endpoint.operations() == {"app.price": 1, "app.show": 1}
    assert endpoint.request_ids("operation.duration") == {name}


def test_the_page_names_all_that_is_switched_on_and_the_variables_that_are_set() -> None:
    text = PAGE.lower()
    for module in (*INTEGRATIONS, *SERVERS):
        assert module.partition(".")[0] in text, module
    for name, value in defaults({}).items():
        assert f"`{name}={value}`" in PAGE
    for function in set(INTEGRATIONS.values()):
        integration, _, name = function.partition(".")
        assert name == "instrument" or f"`.{integration}`" in PAGE or f"`clew.integrations.{integration}`" in PAGE
