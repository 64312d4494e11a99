"""The command ``clew`` before any command of it runs: wrong use is answered with status 2 and what there is."""

from __future__ import annotations

import pytest

import clew
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
    said = refused(arguments, capsys)
    for command in ("local", "report", "follow", "around"):
        assert command in said


def test_without_a_command_the_answer_is_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "follow" in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["follow"], "ID"),
        (["report", "--window", "soon"], "soon"),
        (["report", "--format", "xml"], "xml"),
        (["local", "--grpc-port", "ninety"], "ninety"),
        (["local", "--http-port", "70000"], "70000"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(arguments, capsys)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert clew.__version__ in capsys.readouterr().out
