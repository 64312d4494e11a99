"""What is held stays within its bounds, whatever happens; what these cost is counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs.conftest import NEVER, Sent

import clew
from clew import diagnostics
from clew.logs import held
from clew.logs.held import HeldLogs, HeldRequest

logger = logging.getLogger("shop")


def test_of_one_request_that_logs_too_much_the_oldest_are_dropped_and_counted(
    hold: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "RECORDS_PER_REQUEST", 3)
    sent = hold()
    with clew.request():
        for number in range(5):
            logger.info("%d", number)
        logger.error("failed")
    assert sent.texts()[1:] == ["2", "3", "4", "failed"]
    assert "were dropped, the oldest first" in sent.texts()[0]  # logged by clew itself
    assert sent.recorded.events() == {"held_logs.dropped": 2}


def test_of_all_requests_together_the_oldest_records_are_dropped(
    hold: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "RECORDS_IN_ALL", 3)
    sent = hold()
    with clew.request("outer"):
        logger.info("one")
        logger.info("two")
        with clew.request("inner"):
            logger.info("three")
            logger.info("four")
            logger.error("inner failed")
        logger.error("outer failed")
    assert sent.texts()[1:] == ["three", "four", "inner failed", "two", "outer failed"]
    assert sent.recorded.events() == {"held_logs.dropped": 1}


def test_a_text_that_is_larger_than_all_that_may_be_held_is_dropped_alone(
    hold: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "BYTES_PER_REQUEST", 10_000)
    sent = hold()
    with clew.request():
        logger.info("one")
        logger.info("x" * 10_000)
        logger.info("two")
        logger.error("failed")
    assert sent.texts()[1:] == ["one", "two", "failed"]
    assert sent.recorded.events() == {"held_logs.dropped": 1}


def test_a_request_may_hold_so_many_bytes(hold: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "BYTES_PER_REQUEST", 10_000)
    sent = hold()
    with clew.request():
        for letter in "abcd":
            logger.info(letter * 4_000)
        logger.error("failed")
    assert [text[:1] for text in sent.texts()[1:]] == ["c", "d", "f"]
    assert sent.recorded.events() == {"held_logs.dropped": 2}


# any sequence

RECORDS, BYTES, RECORDS_OF_ALL, BYTES_OF_ALL = 5, 100, 8, 200


@dataclass
class Record:
    number: int
    size: int
    sent: list[int]
    may_wait: bool = False

    def send(self) -> None:
        self.sent.append(self.number)


@dataclass
class World:
    """A few requests, some of them inside of others, and what became of every record."""

    held_logs: HeldLogs = field(default_factory=lambda: HeldLogs(slow=NEVER, sample_ratio=0.0))
    requests: list[HeldRequest] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    refused: int = 0
    taken: int = 0
    decided_away: int = 0

    def check(self) -> None:
        with_records = [one for one in self.requests if one.records]
        for one in with_records:
            assert len(one.records) <= RECORDS
            assert one.size == sum(record.rendered.size for record in one.records.values()) <= BYTES
            assert list(one.records) == sorted(one.records)
            assert one.is_kept is None
        total = [record for one in with_records for record in one.records.values()]
        assert len(total) <= RECORDS_OF_ALL
        assert sum(record.rendered.size for record in total) <= BYTES_OF_ALL

    def held(self) -> int:
        return sum(len(held.records) for held in self.requests)


@contextmanager
def small_bounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, ExitStack():
        for name, value in (
            ("RECORDS_PER_REQUEST", RECORDS),
            ("BYTES_PER_REQUEST", BYTES),
            ("RECORDS_IN_ALL", RECORDS_OF_ALL),
            ("BYTES_IN_ALL", BYTES_OF_ALL),
        ):
            patch.setattr(held, name, value)
        patch.setattr(diagnostics, "_counts", {})
        yield


ACTIONS = st.one_of(
    st.tuples(st.just("begin"), st.integers(-1, 20), st.just(0)),
    st.tuples(st.just("log"), st.integers(0, 20), st.integers(0, 120)),
    st.tuples(st.just("log"), st.integers(0, 20), st.integers(0, 30)),
    st.tuples(st.just("keep"), st.integers(0, 20), st.just(0)),
    st.tuples(st.just("drop"), st.integers(0, 20), st.just(0)),
)


@given(st.lists(ACTIONS, max_size=120))
def test_whatever_happens_no_bound_is_passed_and_every_record_is_sent_held_dropped_or_counted(
    actions: list[tuple[str, int, int]],
) -> None:
    with small_bounds():
        world = World()
        world.requests.append(world.held_logs.begin("r"))
        for number, (what, index, size) in enumerate(actions):
            request = world.requests[index % len(world.requests)]
            if what == "begin":
                world.requests.append(world.held_logs.begin("r", request if index >= 0 else None))
            elif what == "log":
                record = Record(number, size, world.sent)
                before = world.held()
                if not request.hold(logging.INFO, lambda record=record: record):  # type: ignore[misc]
                    record.send()
                elif before == world.held() and request.is_kept is False:
                    world.decided_away += 1
            else:
                before, sent_before = world.held(), len(world.sent)
                dropped_before = diagnostics.counts().get("held_logs.dropped", 0)
                request.decide(is_kept=what == "keep")
                gone = before - world.held()
                by_bounds = diagnostics.counts().get("held_logs.dropped", 0) - dropped_before
                world.decided_away += gone - by_bounds - (len(world.sent) - sent_before)
            world.check()
        logged = sum(what == "log" for what, _, _ in actions)
        waiting = world.held()
        dropped = diagnostics.counts().get("held_logs.dropped", 0)
        away = logged - len(world.sent) - waiting - dropped
        assert away >= 0
        world.held_logs.close()
        assert world.held() == 0
        assert len(world.sent) == len(set(world.sent))
        assert len(world.sent) + dropped + away == logged
        decided_no = any(held.is_kept is False for held in world.requests)
        assert decided_no or away == 0, "records are missing though no request was dropped"


def test_many_threads_lose_nothing_and_pass_no_bound(
    hold: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "RECORDS_PER_REQUEST", 50)
    monkeypatch.setattr(held, "RECORDS_IN_ALL", 120)
    sent = hold()

    def serve(thread: int) -> None:
        for request in range(20):
            with clew.request():
                for number in range(30):
                    logger.info("%d/%d/%d", thread, request, number)
                logger.error("failed")

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    texts = [text for text in sent.texts() if text.count("/") == 2]
    dropped = sent.recorded.events().get("held_logs.dropped", 0)
    assert len(texts) == len(set(texts))
    assert len(texts) + dropped == 8 * 20 * 30
    assert sent.texts().count("failed") == 8 * 20
