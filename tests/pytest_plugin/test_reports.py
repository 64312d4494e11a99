"""What a failed test shows: the table behind an assertion, and its requests under the report."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

FAILING = """
        import logging, clew, pytest

        def work():
            with clew.request("r-17"):
                with clew.measure("checkout", span=True) as m:
                    m.set("tier", "gold")
                    logging.getLogger("shop").info("charging the card")
                    m.fail("declined")

        def test_numbers(telemetry):
            work()
            assert telemetry.calls("checkout").count == 2
"""


def test_a_comparison_shows_the_calls_behind_the_number(run: Run) -> None:
    done = run(FAILING, "-vv")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            "E *assert 1 == 2",
            "E * operation *attributes *error *duration *request",
            "E * checkout *tier=gold *declined * r-17",
        ]
    )


def test_a_failed_test_shows_its_requests(run: Run) -> None:
    done = run(FAILING)
    done.stdout.fnmatch_lines(
        [
            "*-- Telemetry --*",
            "operation *attributes *error *duration *request",
            "checkout *tier=gold *declined * r-17",
            "request r-17",
            "  *:*:*.* *span *checkout *ERROR *tier=gold*",
            "  *:*:*.* *INFO *shop *charging the card",
        ]
    )


def test_a_test_that_passes_or_uses_no_fixture_shows_nothing(run: Run) -> None:
    done = run(
        """
        import clew

        def test_passes(telemetry):
            with clew.measure("work"):
                pass

        def test_records_nothing(telemetry):
            assert False

        def test_fails():
            assert 1 == 2
        """
    )
    done.assert_outcomes(passed=1, failed=2)
    done.stdout.no_fnmatch_line("*- Telemetry -*")


def test_a_fixture_that_fails_and_a_teardown_that_fails_show_it_too(run: Run) -> None:
    done = run(
        """
        import clew, pytest

        def work(name):
            with clew.request(name):
                with clew.measure("work"):
                    pass

        @pytest.fixture
        def fails_first(telemetry):
            work("first")
            raise RuntimeError

        @pytest.fixture
        def fails_last(telemetry):
            yield
            work("last")
            raise RuntimeError

        def test_first(fails_first):
            pass

        def test_last(fails_last):
            pass
        """
    )
    done.assert_outcomes(errors=2, passed=1)
    done.stdout.fnmatch_lines(["*-- Telemetry --*", "work *first", "*-- Telemetry --*", "work *last"])


SHOWN = {
    "telemetry.calls('checkout').failed == 0": ["*1 == 0", "*checkout *tier=gold *declined *r-17"],
    "telemetry.calls('checkout').errors == {}": ["*{'declined': 1} == {}", "*checkout *"],
    "telemetry.calls('checkout').request_ids == ['x']": ["*'r-17'[]] == [[]'x'[]]", "*checkout *"],
    "telemetry.calls('checkout').attributes == []": ["*[[]{'tier': 'gold'}[]] == []", "*checkout *"],
    "telemetry.calls('checkout').durations == []": ["*] == []", "*checkout *"],
    "telemetry.calls('check').count == 1": ["*no calls of 'check'; measured were: checkout (1)"],
    "telemetry.calls('check')": ["*<no calls of 'check'; measured were: checkout (1)>*"],
    "telemetry.metric('operation.duration').count == 2": ["*operation.duration *tier=gold * 1 *r-17"],
    "telemetry.metric('orders').value == 2": ["*no measurements of 'orders'; measured were: *operation.duration"],
    "telemetry.request('r-17').texts == []": ["*request r-17", "*INFO *shop *charging the card"],
    "'x' in telemetry.request('r-17').span_names": ["*request r-17", "*span *checkout*"],
    "telemetry.log_lines == []": ["*INFO *shop *charging the card"],
}


def test_every_value_shows_where_it_comes_from(run: Run) -> None:
    before = FAILING.partition("        def test_numbers")[0]
    tests = [
        f"        def test_{number}(telemetry):\n            work()\n            assert {assertion}\n"
        for number, assertion in enumerate(SHOWN)
    ]
    done = run("\n".join([before, *tests]), "-vv")
    done.assert_outcomes(failed=len(SHOWN))
    for assertion, lines in SHOWN.items():
        done.stdout.fnmatch_lines([f">* assert {assertion.replace('[', '[[]')}", *(f"E {line}" for line in lines)])


def test_what_is_much_is_cut_and_says_so(run: Run) -> None:
    done = run(
        """
        import logging, clew

        def test_it(telemetry):
            for number in range(30):
                with clew.request(f"r-{number}"):
                    for _ in range(2):
                        with clew.measure("work"):
                            pass
                    logging.getLogger("shop").info("line of %s", clew.request_id())
            assert False
        """
    )
    done.stdout.fnmatch_lines(
        ["… 20 more before these", "… 10 requests more before these", "request r-10", "request r-29"]
    )
    done.stdout.no_fnmatch_line("request r-9")
