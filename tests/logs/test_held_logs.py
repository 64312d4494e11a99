"""With CLEW_LOGS=interesting the records of a request wait for its end, and are sent only if it is worth reading."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs.conftest import Sent
from serving import wait_until

import clew
from clew.logs import held
from clew.logs.sampling import is_sampled

logger = logging.getLogger("shop")


class OutOfStock(Exception):
    pass


def test_nothing_is_held_unless_asked_for(follow: Callable[..., Sent]) -> None:
    sent = follow()
    with clew.request():
        logger.info("at once")
        assert sent.texts() == ["at once"]


def test_of_a_request_that_succeeds_nothing_is_sent(held: Sent) -> None:
    with clew.request():
        logger.debug("looked")
        logger.info("found")
    assert held.texts() == []


def test_of_a_request_that_fails_all_is_sent_in_order(held: Sent) -> None:
    with suppress(ValueError), clew.request("r-1"):
        logger.debug("looked")
        logger.info("found %d", 3)
        assert held.texts() == []
        raise ValueError
    assert held.texts() == ["looked", "found 3"]
    assert [record.attributes["request_id"] for record in held.all()] == ["r-1", "r-1"]
    assert held.recorded.events() == {}


def test_an_error_releases_what_came_before_and_what_comes_after_passes_at_once(held: Sent) -> None:
    with clew.request():
        logger.info("before")
        logger.error("worse")
        assert held.texts() == ["before", "worse"]
        logger.info("after")
        assert held.texts() == ["before", "worse", "after"]


def test_a_warning_passes_at_once_and_releases_nothing(held: Sent) -> None:
    with clew.request():
        logger.info("before")
        logger.warning("careful")
        assert held.texts() == ["careful"]
    assert held.texts() == ["careful"]


def test_records_outside_a_request_pass_at_once(held: Sent) -> None:
    logger.info("outside")
    assert held.texts() == ["outside"]


def test_a_request_that_lasts_long_is_kept(hold: Callable[..., Sent]) -> None:
    sent = hold(logs_slow=0.01)
    with clew.request():
        logger.info("begun")
        over = time.monotonic() + 0.011
        while time.monotonic() < over:
            pass
    assert sent.texts() == ["begun"]


def test_a_request_that_has_lasted_long_already_has_its_records_sent_at_the_next_one(
    hold: Callable[..., Sent],
) -> None:
    sent = hold(logs_slow=0.01)
    with clew.request():
        logger.info("begun")
        over = time.monotonic() + 0.011
        while time.monotonic() < over:
            pass
        logger.info("going on")
        assert sent.texts() == ["begun", "going on"]


def test_a_failure_that_is_expected_everywhere_is_none(hold: Callable[..., Sent]) -> None:
    sent = hold(expected=OutOfStock)
    with suppress(OutOfStock), clew.request():
        logger.info("looked")
        raise OutOfStock
    assert sent.texts() == []


# the sample ratio


def test_all_or_none_of_the_requests_can_be_sampled(hold: Callable[..., Sent]) -> None:
    sent = hold(logs_sample_ratio=1)
    with clew.request():
        logger.info("at once")
        assert sent.texts() == ["at once"]


def test_a_ratio_of_the_requests_is_sampled_by_their_ids_alone(hold: Callable[..., Sent]) -> None:
    sent = hold(logs_sample_ratio=0.25)
    names = [f"r-{number}" for number in range(200)]
    for name in names:
        with clew.request(name):
            logger.info(name)
    chosen = [
        name
        for name in names
        if int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 < 0.25  # as the page says
    ]
    assert sent.texts() == chosen
    assert 20 < len(chosen) < 80


@given(st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=118), st.floats(0, 1))
def test_a_larger_ratio_keeps_what_a_smaller_one_keeps(name: str, sample_ratio: float) -> None:
    assert is_sampled(name, 1)
    assert not is_sampled(name, 0)
    if is_sampled(name, sample_ratio):
        assert is_sampled(name, min(1, sample_ratio * 1.5))


# held by entry


def test_two_requests_of_one_id_at_the_same_time_are_decided_each_by_itself(held: Sent) -> None:
    begun, over = threading.Barrier(2), threading.Barrier(2)

    def serve(text: str, fails: bool) -> None:
        with suppress(ValueError), clew.request("same"):
            logger.info(text)
            begun.wait(20)
            if fails:
                raise ValueError
        over.wait(20)

    threads = [threading.Thread(target=serve, args=(text, text == "bad")) for text in ("good", "bad")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert held.texts() == ["bad"]


def test_a_request_inside_of_another_one_is_decided_by_itself(held: Sent) -> None:
    with clew.request("outer"):
        logger.info("outside")
        with suppress(ValueError), clew.request("inner"):
            logger.info("inside")
            raise ValueError
        with clew.request("second"):
            logger.info("dropped")
    assert held.texts() == ["inside"]


def test_what_a_further_entry_into_the_same_request_would_drop_the_outer_one_decides_on(held: Sent) -> None:
    with suppress(ValueError), clew.request("r-1"):
        logger.info("one")
        with clew.request("r-1"):
            logger.info("two")
        logger.info("three")
        raise ValueError
    with clew.request("r-2"), clew.request("r-2"):
        logger.info("dropped")
    assert held.texts() == ["one", "two", "three"]


@pytest.mark.parametrize("sample_ratio", [0.0, 1.0])
def test_requests_each_started_by_the_one_before_do_not_pile_up(sample_ratio: float, hold: Callable[..., Sent]) -> None:
    hold(logs_sample_ratio=sample_ratio)

    def held_requests() -> int:
        gc.collect()
        return sum(type(found) is held.HeldRequest for found in gc.get_objects())

    async def enter(number: int) -> asyncio.Task[Any] | int:
        with clew.request("r-1"):
            if number < 50:
                return asyncio.create_task(enter(number + 1))
            return held_requests()

    async def enter_on() -> int:
        found: asyncio.Task[Any] | int = asyncio.create_task(enter(0))
        while isinstance(found, asyncio.Task):
            found = await found
        return found

    before = held_requests()
    assert asyncio.run(enter_on()) - before < 10


def test_work_that_outlives_a_request_follows_the_decision(held: Sent) -> None:
    async def serve(name: str, fails: bool, later: asyncio.Event) -> asyncio.Task[None]:
        async def work() -> None:
            logger.info("%s before", name)
            await later.wait()
            logger.info("%s after", name)
            logger.warning("%s warned", name)

        with clew.request(name):
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
            if fails:
                logger.error("%s failed", name)
        return task

    async def main() -> None:
        later = asyncio.Event()
        tasks = [await serve("good", False, later), await serve("bad", True, later)]
        later.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert held.texts() == ["bad before", "bad failed", "good warned", "bad after", "bad warned"]


def test_records_of_the_threads_and_tasks_of_a_request_are_its_own(held: Sent) -> None:
    async def main() -> None:
        with clew.request():
            await asyncio.gather(asyncio.to_thread(logger.info, "in a thread"), asyncio.sleep(0))
            assert held.texts() == []
            logger.error("failed")

    asyncio.run(main())
    assert held.texts() == ["in a thread", "failed"]


def test_many_requests_at_once_are_not_mixed_up(held: Sent) -> None:
    async def serve(number: int) -> None:
        with clew.request(f"r-{number}"):
            for step in range(5):
                logger.info("%d step %d", number, step)
                await asyncio.sleep(0)
            if number % 3 == 0:
                raise ValueError

    async def main() -> None:
        await asyncio.gather(*(serve(number) for number in range(30)), return_exceptions=True)

    asyncio.run(main())
    expected = {f"{number} step {step}" for number in range(0, 30, 3) for step in range(5)}
    assert len(held.texts()) == len(expected)
    assert set(held.texts()) == expected
    assert all(record.attributes["request_id"] == f"r-{record.body.split()[0]}" for record in held.all())


# rendered when held


class Basket:
    def __init__(self) -> None:
        self.items = ["tea"]

    def __str__(self) -> str:
        return "+".join(self.items)


def test_text_values_and_traceback_are_those_of_when_it_was_logged(held: Sent) -> None:
    basket = Basket()
    with clew.request():
        try:
            raise ValueError(basket)
        except ValueError:
            logger.info("has %s", basket, extra={"basket": basket, "items": basket.items}, exc_info=True)
        basket.items.append("milk")
        logger.error("failed")
    record = held.one("has tea")
    assert record.attributes["basket"] == "tea"
    assert record.attributes["items"] == ("tea",)
    assert record.attributes["exception.message"] == "tea"
    assert "raise ValueError(basket)" in record.attributes["exception.stacktrace"]


def test_a_value_whose_text_cannot_be_made_says_so_and_nothing_is_lost(held: Sent) -> None:
    class Sick:
        def __str__(self) -> str:
            raise RuntimeError

    with clew.request():
        logger.info("one")
        logger.info("two", extra={"value": Sick()})
        logger.error("three")
    assert held.texts() == ["one", "two", "three"]
    assert held.one("two").attributes["value"] == "<Sick whose text failed with RuntimeError>"


def test_the_time_of_a_record_is_when_it_was_logged(held: Sent) -> None:
    with clew.request():
        before = time.time_ns()
        logger.info("early")
        after = time.time_ns()
        over = time.monotonic() + 0.01
        while time.monotonic() < over:
            pass
        logger.error("late")
    assert before - 1_000_000 <= held.one("early").timestamp <= after + 1_000_000
    assert held.one("early").observed_timestamp <= after + 1_000_000


# levels


def test_the_levels_of_loggers_apply_as_ever(held: Sent) -> None:
    logger.setLevel(logging.INFO)
    with clew.request():
        logger.debug("not at all")
        logger.info("found")
        logger.error("failed")
    assert held.texts() == ["found", "failed"]


# operations that fail


def test_fail_of_the_outermost_operation_keeps_a_request(held: Sent) -> None:
    with clew.request(), clew.measure("pay") as paying:
        logger.info("paying")
        paying.fail("declined")
    assert held.texts() == ["paying"]


def test_fail_of_an_operation_inside_of_another_one_keeps_nothing(held: Sent) -> None:
    with clew.request(), clew.measure("check out"), clew.measure("pay") as paying:
        logger.info("paying")
        paying.fail("declined")
    assert held.texts() == []


@clew.measure("pay")
def pay(error: type[Exception] | None) -> None:
    logger.info("paying")
    if error is not None:
        raise error


@clew.measure("check out")
def check_out(error: type[Exception] | None) -> None:
    with suppress(OutOfStock):
        pay(error)


@clew.measure("browse", expected=OutOfStock)
def browse() -> None:
    logger.info("browsing")
    raise OutOfStock


def test_an_exception_counts_where_it_leaves_the_outermost_operation_though_somebody_catches_it(held: Sent) -> None:
    with clew.request(), suppress(ValueError):
        check_out(ValueError)
    assert held.texts() == ["paying"]
    with clew.request():
        check_out(OutOfStock)
    with clew.request(), suppress(OutOfStock):
        browse()
    assert held.texts() == ["paying"]
    assert held.recorded.calls("pay") == {"ValueError": 1, f"{__name__}.OutOfStock": 1}
    assert held.recorded.calls("check out") == {"ValueError": 1, None: 1}


@clew.measure("charge", failed=lambda receipt: receipt)
def charge(receipt: str) -> str:
    logger.info("charging")
    return receipt


def test_a_failure_that_is_returned_counts_too(held: Sent) -> None:
    with clew.request():
        charge("")
    assert held.texts() == []
    with clew.request():
        charge("declined")
    assert held.texts() == ["charging"]


def test_the_second_of_two_outermost_operations_counts_as_the_first_does(held: Sent) -> None:
    with clew.request():
        check_out(None)
        with suppress(ValueError):
            pay(ValueError)
    assert held.texts() == ["paying", "paying"]


def test_of_operations_side_by_side_in_tasks_each_is_outermost(held: Sent) -> None:
    @clew.measure("look up")
    async def look_up(fails: bool) -> None:
        await asyncio.sleep(0)
        logger.info("looking")
        if fails:
            raise ValueError

    async def main(fails: bool) -> None:
        with clew.request():
            await asyncio.gather(look_up(False), look_up(fails), return_exceptions=True)

    asyncio.run(main(False))
    assert held.texts() == []
    asyncio.run(main(True))
    assert held.texts() == ["looking", "looking"]


def test_operations_inside_of_a_measured_generator_are_not_outermost(held: Sent) -> None:
    @clew.measure("stream")
    def stream() -> Any:
        for _ in range(2):
            try:
                pay(ValueError)
            except ValueError:
                yield 1

    with clew.request():
        assert list(stream()) == [1, 1]
    assert held.texts() == []


def test_a_generator_that_fails_is_a_failed_operation(held: Sent) -> None:
    @clew.measure("stream")
    def stream() -> Any:
        logger.info("streaming")
        yield 1
        raise ValueError

    with clew.request(), suppress(ValueError):
        list(stream())
    assert held.texts() == ["streaming"]


# how long it is held


def test_a_request_with_a_record_older_than_the_bound_is_kept_without_a_further_record(
    hold: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "LONGEST_HELD", 0.05)
    sent = hold()
    with clew.request():
        logger.info("early")
        wait_until(lambda: sent.texts() == ["early"], "it is held for ever", 20)
        logger.info("late")
        assert sent.texts() == ["early", "late"]
    with clew.request():
        logger.info("next")
        wait_until(lambda: sent.texts() == ["early", "late", "next"], "only the first one was released", 20)


def test_shutdown_releases_what_is_held(held: Sent) -> None:
    with clew.request():
        logger.info("under way")
        held.recorded.telemetry.shutdown()
        assert held.texts() == ["under way"]


def test_a_flush_releases_nothing(held: Sent) -> None:
    with clew.request():
        logger.info("under way")
        held.recorded.telemetry.force_flush()
    assert held.texts() == []


def test_a_request_that_began_before_configure_is_not_held(hold: Callable[..., Sent]) -> None:
    with clew.request():
        sent = hold()
        logger.info("at once")
        assert sent.texts() == ["at once"]


def test_an_operation_that_began_before_configure_goes_on(hold: Callable[..., Sent]) -> None:
    with clew.request(), clew.measure("begun before") as m:
        hold()
        m.fail("somehow")


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("logs", "some", "all, interesting"),
        ("logs_slow", -1, "a number of seconds from 0 to 86400"),
        ("logs_sample_ratio", 1.5, "a number from 0 to 1"),
        ("logs_canonical", "yes", "True or False"),
    ],
)
def test_a_wrong_setting_says_what_is_allowed(setting: str, value: Any, allowed: str) -> None:
    with pytest.raises(clew.ConfigurationError, match=rf"configure\({setting}=…\) .*allowed: {allowed}"):
        clew.configure(**{setting: value})


def test_the_environment_configures_it(follow: Callable[..., Sent], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CLEW_LOGS": "Interesting",
        "CLEW_LOGS_SLOW": "2.5",
        "CLEW_LOGS_SAMPLE_RATIO": "0.25",
        "CLEW_LOGS_CANONICAL": "true",
    }.items():
        monkeypatch.setenv(name, value)
    settings = follow().recorded.telemetry.settings
    assert (settings.logs, settings.logs_slow, settings.logs_sample_ratio, settings.logs_canonical) == (
        "interesting",
        2.5,
        0.25,
        True,
    )
