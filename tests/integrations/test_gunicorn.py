"""Behind a real gunicorn: access lines, error lines and files sent by the kernel."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Address, wait_until

pytest.importorskip("gunicorn")

APPLICATION = """
import logging
from clew.integrations.wsgi import RequestMiddleware

logger = logging.getLogger("shop")


def shop(environ, start_response):
    if environ["PATH_INFO"] == "/fails":
        raise RuntimeError("the handler failed")
    if environ["PATH_INFO"] == "/file":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))
    logger.info("served")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (part for part in [b"one ", b"two"])


application = RequestMiddleware(shop)
"""

CONFIGURATION = """
bind = "127.0.0.1:0"
accesslog = "-"
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "clew.integrations.logging.RequestIdFilter"}},
    "formatters": {"line": {"format": "LINE %(name)s [%(request_id)s] %(message)s"}},
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "filters": ["request_id"],
            "formatter": "line",
            "stream": "ext://sys.stderr",
        },
    },
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "gunicorn.error": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "gunicorn.access": {"handlers": ["console"], "level": "INFO", "propagate": False},
    },
}
"""


@pytest.fixture(scope="module", params=["sync", "gthread"])
def gunicorn(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Address, Path]]:
    folder = tmp_path_factory.mktemp("gunicorn")
    (folder / "shop_application.py").write_text(APPLICATION)
    (folder / "settings.py").write_text(CONFIGURATION)
    output = folder / "output"
    command = [sys.executable, "-m", "gunicorn", "-c", "settings.py", "-k", request.param, "--threads", "2"]
    with output.open("wb") as file:
        process = subprocess.Popen([*command, "shop_application:application"], cwd=folder, stderr=file, stdout=file)
        try:
            listening = re.compile(r"Listening at: http://127\.0\.0\.1:(\d+)")
            wait_until(lambda: "Booting worker" in output.read_text(), "gunicorn has not started")
            found = listening.search(output.read_text())
            assert found
            yield Address("127.0.0.1", int(found[1])), output
        finally:
            process.terminate()
            process.wait(60)


def lines(output: Path, logger: str, holding: str) -> list[str]:
    start = f"LINE {logger} "
    return [
        line.removeprefix(start)
        for line in output.read_text().splitlines()
        if line.startswith(start) and holding in line
    ]


def test_application_and_access_lines_carry_the_id(gunicorn: tuple[Address, Path]) -> None:
    address, output = gunicorn
    response = address.get("/", ("X-Request-ID", "abc-1"))
    assert response.one("x-request-id") == "abc-1"
    assert b"one " in response.body
    wait_until(lambda: lines(output, "gunicorn.access", "abc-1"), "no access line has the ID")
    assert lines(output, "shop", "served")[-1].startswith("[abc-1]")


def test_the_error_line_of_a_failed_request_has_its_id(gunicorn: tuple[Address, Path]) -> None:
    address, output = gunicorn
    assert address.get("/fails", ("X-Request-ID", "abc-2")).status == 500
    wait_until(lambda: lines(output, "gunicorn.error", "Error handling request"), "gunicorn has logged no error")
    assert lines(output, "gunicorn.error", "Error handling request")[-1].startswith("[abc-2]")


def test_a_file_is_sent_whole_and_its_request_is_over_for_the_next(gunicorn: tuple[Address, Path]) -> None:
    address, _ = gunicorn
    response = address.get("/file", ("X-Request-ID", "abc-3"))
    assert response.one("x-request-id") == "abc-3"
    assert APPLICATION.encode() in response.body.replace(b"\r\n", b"\n")
    for _ in range(4):
        assert address.get("/").one("x-request-id") != "abc-3"


def test_a_repeated_header_gives_the_first(gunicorn: tuple[Address, Path]) -> None:
    address, _ = gunicorn
    response = address.get("/", ("X-Request-ID", "one"), ("X-Request-ID", "two"))
    assert response.status == 400 or response.one("x-request-id") == "one"
