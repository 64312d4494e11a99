"""A contestant that does not record what it claims is found out."""

from __future__ import annotations

from benchmarks.contestant import BLOCK, Contestant, Recorded


def contestant(counted: float = 1.0, request_id: bool | None = None, running: int | None = None) -> Contestant:
    calls: list[float] = []
    return Contestant(
        "kept",
        "keeps its values",
        "tests",
        calls.append,
        recorded=lambda: Recorded({"list": int(len(calls) * counted)}, request_id, running),
    )


def test_one_that_counts_each_call_makes_no_mistake() -> None:
    exact = contestant(request_id=True, running=0)
    exact.turn(3)
    assert exact.done == 3 * BLOCK
    assert exact.mistakes() == []


def test_one_that_loses_or_doubles_calls_is_reported() -> None:
    for share in (0.5, 2.0):
        wrong = contestant(counted=share)
        wrong.turn(2)
        assert wrong.mistakes() == [f"kept: {2 * BLOCK} calls were made, its list knows of {int(2 * BLOCK * share)}"]


def test_one_that_claims_a_request_id_and_keeps_none_is_reported() -> None:
    wrong = contestant(request_id=False)
    wrong.turn(1)
    assert "no exemplar with the request ID" in wrong.mistakes()[0]


def test_one_that_counts_ended_calls_as_running_is_reported() -> None:
    wrong = contestant(running=2)
    wrong.turn(1)
    assert wrong.mistakes() == ["kept: 2 calls count as running, there are none"]
