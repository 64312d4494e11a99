"""With CLEW_LOGS=interesting few log lines of the shop remain, and none of a request that failed is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from shop import lines


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> lines.Lines:
    """A day of the shop with its lines held."""
    # with no request slow by time: how fast the machine is must not matter
    return lines.run(tmp_path_factory.mktemp("lines"), requests=400, seconds=6.0, seed=1, slow=600)


def test_every_request_has_logged_and_some_have_failed(day: lines.Lines) -> None:
    named = {request.request_id for request in day.sent.requests}
    assert len(named) == 400
    assert named <= day.by_request.keys()
    assert len(day.failed()) > 2


def test_no_line_of_a_failed_request_is_missing(day: lines.Lines) -> None:
    for request_id in day.failed():
        assert not day.missing(request_id, "front"), request_id


def test_of_what_succeeded_nothing_remains(day: lines.Lines) -> None:
    succeeded = {request.request_id for request in day.sent.requests if request.status < "400"}
    assert len(succeeded) > 200
    assert not {line[1] for line in day.kept if line[0] == "front"} & succeeded


def test_few_lines_remain(day: lines.Lines) -> None:
    assert day.kept.total() < day.logged.total() / 4


def test_what_belongs_to_no_request_is_sent(day: lines.Lines) -> None:
    assert day.kept["worker", "-", "the worker is ready"] == 1


def test_the_program_prints_the_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lines.py", "--requests", "60", "--seconds", "1"])
    assert lines.main() == 0
    printed = capsys.readouterr().out
    assert "log lines" in printed
    assert "missing of the front's failed requests       0" in printed


def test_it_is_documented_where_it_stands() -> None:
    assert Path(lines.__file__).name in (Path(__file__).parents[2] / "docs" / "logs.md").read_text()
