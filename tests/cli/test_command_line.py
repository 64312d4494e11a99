"""The command ``clew`` before any command of it runs: wrong use is status 2, with the commands there are."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import clew
from clew.__about__ import __version__
from clew.cli import main


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize("arguments", [["nonsense"], ["reprot"]])
def test_an_unknown_command_is_named_beside_those_there_are(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(arguments, capsys)
    for command in ("local", "report", "follow", "around"):
        assert command in message


def test_without_a_command_the_answer_is_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "follow" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["follow"], "ID"),
        (["report", "--window", "soon"], "soon"),
        (["report", "--format", "xml"], "xml"),
        (["local", "--grpc-port", "ninety"], "ninety"),
        (["local", "--http-port", "70000"], "70000"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(arguments, capsys)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert clew.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["repot"], "report"),
        ([], "follow"),
        (["follow"], "ID"),
        (["report", "--window", "0s"], "0s"),
        (["report", "--window", "soon"], "allowed"),
        (["report", "--compare", "-1h"], "--compare"),
        (["report", "--format", "xml"], "xml"),
        (["local", "--http-port", "70000"], "70000"),
        (["local", "--max-size", "10"], "10"),
        (["local", "--max-age", "old"], "old"),
        (["local", "--page-port", "1"], "--page-port"),
    ],
)
def test_wrong_use_is_status_2_and_says_what_is_allowed(clew, arguments, says):
    answer = clew(*arguments)
    assert answer.status == 2
    assert says in answer.stderr
    assert answer.stdout == ""


def test_the_version_is_the_packages(clew):
    answer = clew("--version")
    assert (answer.status, answer.stdout) == (0, f"clew {__version__}\n")


def test_a_reader_that_closes_the_pipe_gets_no_traceback(stored, exports, now):
    message = None
    for number in range(2000):
        message = exports.log_line("x" * 100, at=now + number, attributes={"request_id": "r"}, message=message)
    stored.send(message)
    process = subprocess.Popen(
        [sys.executable, "-m", "clew.cli", "follow", "r", "--store", str(stored.store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


def test_a_missing_package_is_named_with_what_installs_it(clew, tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    answer = subprocess.run(
        [sys.executable, "-m", "clew.cli", "local", "--store", str(tmp_path / "x")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert answer.returncode == 3
    assert "pip install 'clew[local]'" in answer.stderr
    assert "uvicorn" in answer.stderr
