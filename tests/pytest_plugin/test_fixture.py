"""The fixture `telemetry`: what it captures, and what it leaves as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clew.testing import capture

Run = Callable[..., pytest.RunResult]

SHOP = """
import logging

import clew
from opentelemetry import trace

orders = clew.counter("orders", unit="{order}")
log = logging.getLogger("shop")


@clew.measure("checkout", span=True)
def checkout(cart):
    with clew.measure("charge") as m:
        m.set("tier", "gold")
        log.info("charging %d", len(cart))
        if not cart:
            raise ValueError("nothing in the cart")
    orders.add(len(cart), {"shop": "tea"})
"""


def test_calls_metrics_spans_and_log_lines_of_a_test_are_there(run: Run) -> None:
    done = run(
        """
        import pytest, clew, shop
        from opentelemetry import metrics, trace

        def test_one_call(telemetry):
            with clew.request("r-17"):
                shop.checkout(["tea", "cake"])
            calls = telemetry.calls("checkout")
            assert calls.count == len(calls) == 1
            assert calls.failed == 0
            assert calls.errors == {}
            assert calls.request_ids == ["r-17"]
            assert 0 < calls.durations[0] < 10
            assert telemetry.calls("charge").attributes == [{"tier": "gold"}]
            assert telemetry.calls("charge", {"tier": "gold"}).count == 1
            assert telemetry.calls("charge", {"tier": "silver"}).count == 0
            assert [call.operation for call in telemetry.calls()] == ["charge", "checkout"]
            assert telemetry.metric("orders").value == 2
            assert telemetry.metric("orders").attributes == [{"shop": "tea"}]
            assert telemetry.metric("orders").request_ids == ["r-17"]
            assert telemetry.metric("orders").exemplars[0].value == 2
            assert telemetry.metric("operation.duration", {"operation.name": "charge"}).count == 1
            assert telemetry.metric("operation.duration").request_ids == ["r-17"]
            assert telemetry.metric("operation.active").value == 0
            assert telemetry.metric("never", may_be_unknown=True).value == 0
            assert telemetry.request_ids == ["r-17"]
            request = telemetry.request("r-17")
            assert request is not telemetry.request() and request.texts == ["charging 2"]
            assert request.log_lines[0].severity == "INFO" and request.log_lines[0].logger == "shop"
            assert request.span_names == ["checkout"]
            assert request.calls.count == 2
            assert request.log_lines[0].span_id == request.spans[0].context.span_id == request.calls[0].span_id

        def test_the_next_test_counts_from_zero(telemetry):
            assert telemetry.calls().count == 0
            assert telemetry.metric("orders").value == 0
            assert telemetry.spans == telemetry.log_lines == telemetry.request_ids == []
            with pytest.raises(ValueError):
                shop.checkout([])
            assert telemetry.calls("checkout").errors == {"ValueError": 1}
            assert telemetry.calls("checkout").failed == 1
            assert telemetry.calls("checkout").request_ids == [None]
            assert telemetry.spans[0].attributes["error.type"] == "ValueError"
            shop.orders.add(3)
            assert telemetry.metric("orders").value == 3

        def test_other_instrumentations_are_captured(telemetry):
            counted = metrics.get_meter("contrib").create_counter("calls")
            with clew.request("r-18"), trace.get_tracer("contrib").start_as_current_span("GET"):
                counted.add(1)
            assert telemetry.metric("calls").request_ids == ["r-18"]
            assert telemetry.request("r-18").span_names == ["GET"]

        def test_an_unknown_request_is_named_with_those_there_are(telemetry):
            with pytest.raises(LookupError, match="there were none"):
                telemetry.request()
            with clew.request("a"), clew.request("b"):
                pass
            with pytest.raises(LookupError, match="no request 'c' in this test: there were a, b"):
                telemetry.request("c")
            with pytest.raises(LookupError, match="one request alone: there were a, b"):
                telemetry.request()
        """,
        shop=SHOP,
    )
    done.assert_outcomes(passed=4)
    done.stdout.no_fnmatch_line("*warning*")


def test_nothing_is_imported_before_a_test_uses_the_fixture(run: Run) -> None:
    done = run(
        """
        import os, sys

        def test_nothing_is_imported():
            assert not [name for name in sys.modules if name.partition(".")[0] in ("clew", "opentelemetry")]

        def test_exporters_are_none():
            assert [os.environ[f"OTEL_{signal}_EXPORTER"] for signal in ("METRICS", "TRACES", "LOGS")] == [
                "none", "console", "none"]
        """,
        conftest="""
        import os
        assert os.environ["OTEL_METRICS_EXPORTER"] == "none"
        os.environ["OTEL_TRACES_EXPORTER"] = "console"
        """,
    )
    done.assert_outcomes(passed=2)


@pytest.mark.parametrize("variable", ["OTEL_METRICS_EXPORTER", "OTEL_CONFIG_FILE"])
def test_what_the_environment_sets_stays(run: Run, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "console")
    done = run(
        f"""
        import os

        def test_it():
            assert os.environ["{variable}"] == "console"
            assert ("OTEL_LOGS_EXPORTER" in os.environ) == ({variable!r} != "OTEL_CONFIG_FILE")
        """
    )
    done.assert_outcomes(passed=1)


CONFIGURING = """
        import pytest, clew, app
        from clew import configure

        def test_configuring_returns_the_fixture(telemetry):
            assert clew.configure() is telemetry
            assert isinstance(telemetry, clew.Telemetry)
            assert configure(spans=True, metric_readers=[], resource={"service.name": "x"}) is telemetry
            assert telemetry.settings.spans
            app.work()
            assert telemetry.calls("work").count == 1
            assert [span.name for span in telemetry.spans] == ["work"]

        def test_expected_exceptions_hold(telemetry):
            clew.configure(expected=[LookupError])
            with pytest.raises(LookupError):
                with clew.measure("look"):
                    raise LookupError
            assert telemetry.calls("look").failed == 0
            assert telemetry.spans == []

        def test_a_wrong_setting_is_refused_as_ever(telemetry):
            with pytest.raises(clew.ConfigurationError, match="cardinality_limit"):
                clew.configure(cardinality_limit=-1)
            with pytest.raises(TypeError, match="nonsense"):
                clew.configure(nonsense=1)

        def test_shutting_down_ends_nothing(telemetry):
            assert clew.configure().shutdown()
            app.work()
            assert telemetry.force_flush()
            assert telemetry.calls("work").count == 1

        def test_the_header_that_is_configured_is_so_for_this_test_alone(telemetry):
            clew.configure(request_id_header="X-Correlation-ID")
            from clew.policy import policy
            assert policy.header == "X-Correlation-ID"

        def test_afterwards(telemetry):
            from clew.policy import policy
            assert policy.header == "X-Request-ID"
            app.work()
            assert telemetry.calls("work").count == 1
            assert telemetry.metric("operation.duration").count == 1
"""


@pytest.mark.parametrize("first", ["", "telemetry = clew.configure()", "telemetry = clew.configure(spans=False)"])
def test_an_application_may_configure_at_import_or_in_a_test_or_not_at_all(run: Run, first: str) -> None:
    done = run(
        CONFIGURING,
        app=f"""
        import clew
        {first}

        @clew.measure("work")
        def work():
            pass
        """,
    )
    done.assert_outcomes(passed=6)


def test_an_application_that_shuts_its_telemetry_down_is_captured_in_every_test(run: Run) -> None:
    done = run(
        """
        import clew, pytest
        from opentelemetry import metrics

        own = clew.configure()
        counted = metrics.get_meter("contrib").create_counter("calls")

        @pytest.mark.parametrize("number", range(3))
        def test_a_lifespan(telemetry, number):
            with clew.measure("work"):
                counted.add(1)
            own.shutdown()
            with clew.measure("work"):
                counted.add(1)
            assert telemetry.calls("work").count == 2
            assert telemetry.metric("calls").value == 2

        def test_afterwards_there_is_none():
            assert clew.configure() is not own
        """
    )
    done.assert_outcomes(passed=4)


def test_a_test_without_the_fixture_finds_everything_as_it_was(run: Run) -> None:
    done = run(
        """
        import logging, clew
        from clew.operations import pipeline
        from clew.propagation.cell import RequestCell
        from opentelemetry import propagate

        propagator, begin, handle = propagate.get_global_textmap(), RequestCell.__init__, logging.Logger.callHandlers

        def found():
            return (propagate.get_global_textmap() is propagator, RequestCell.__init__ is begin,
                    logging.Logger.callHandlers is handle, pipeline.current is None)

        def test_with(telemetry):
            assert not any(found())

        def test_without():
            assert all(found())
            own = clew.configure(spans=True)
            assert isinstance(own, clew.Telemetry) and own.settings.spans
            with clew.measure("work"):
                pass

        def test_with_it_again(telemetry):
            assert telemetry.calls().count == 0
            with clew.measure("work"):
                pass
            assert telemetry.calls("work").count == 1
            assert [span.name for span in telemetry.spans] == ["work"]

        def test_the_own_one_is_there_again():
            assert clew.configure(spans=True).shutdown()
            assert pipeline.current is None
        """
    )
    done.assert_outcomes(passed=4)


def test_readers_are_added_to_providers_of_the_application(run: Run) -> None:
    done = run(
        """
        import clew, logging
        from opentelemetry import metrics, trace, _logs
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk._logs import LoggerProvider

        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], views=clew.views(), exemplar_filter=clew.exemplar_filter())
        metrics.set_meter_provider(provider)
        trace.set_tracer_provider(TracerProvider())
        _logs.set_logger_provider(LoggerProvider())
        orders = metrics.get_meter("shop").create_counter("orders")
        seen = metrics.get_meter("shop").create_observable_counter("seen", [lambda options: [metrics.Observation(100)]])
        orders.add(5)

        def test_numbers_are_differences(telemetry):
            with clew.request("r-17"), clew.measure("work", span=True):
                orders.add(2)
                logging.getLogger("shop").info("working")
            assert telemetry.metric("orders").value == 2
            assert telemetry.metric("seen").value == 0
            assert telemetry.metric("orders").request_ids == ["r-17"]
            assert telemetry.calls("work").count == telemetry.metric("operation.duration").count == 1
            assert telemetry.request("r-17").span_names == ["work"]
            assert telemetry.request("r-17").texts == ["working"]

        def test_numbers_are_differences_again(telemetry):
            orders.add(3)
            assert telemetry.metric("orders").value == 3
            assert telemetry.spans == telemetry.log_lines == []

        def test_its_own_reader_has_everything():
            (metric,) = [m for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics
                         for m in s.metrics if m.name == "orders"]
            assert metric.data.data_points[0].value == 10
            assert list(provider._all_metric_readers) == [reader]
        """
    )
    done.assert_outcomes(passed=3)


def test_what_belongs_to_a_request_of_an_earlier_test_is_left_out(run: Run) -> None:
    done = run(
        """
        import logging, threading, clew, pytest
        from opentelemetry import trace
        go, over = threading.Event(), threading.Event()
        tracer = trace.get_tracer("shop")

        def outlive():
            with clew.request("r-17"):
                go.wait(90)
                with clew.measure("late", span=True):
                    logging.getLogger("shop").info("late")
                clew.counter("late").add(1)
            over.set()

        @pytest.fixture
        def opened():
            with clew.request("of the fixture".replace(" ", "-")) as name:
                yield name

        def test_begins_a_request(telemetry):
            threading.Thread(target=outlive).start()

        def test_has_requests_of_the_same_name(opened, telemetry):
            go.set()
            assert over.wait(90)
            with clew.request("r-17"):
                with clew.measure("mine", span=True):
                    logging.getLogger("shop").info("mine")
            with clew.measure("mine"):
                pass
            assert telemetry.calls("late").count == 0
            assert telemetry.calls("mine").request_ids == ["r-17", "of-the-fixture"]
            assert telemetry.request("r-17").texts == ["mine"]
            assert telemetry.request("r-17").span_names == ["mine"]
            assert [line.text for line in telemetry.log_lines] == ["mine"]
            assert telemetry.request_ids == ["of-the-fixture", "r-17"]
        """
    )
    done.assert_outcomes(passed=2)


def test_disabled_telemetry_is_captured_all_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    done = run(
        """
        import clew
        own = clew.configure()

        def test_it(telemetry):
            assert clew.configure() is telemetry
            with clew.measure("work"):
                pass
            assert telemetry.calls("work").count == 1

        def test_it_is_disabled_again():
            assert clew.configure() is own
        """
    )
    done.assert_outcomes(passed=2)


def test_coroutines_tasks_and_threads_are_captured(run: Run) -> None:
    done = run(
        """
        import asyncio, threading, clew, pytest

        @clew.measure("work")
        async def work():
            await asyncio.sleep(0)

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_anyio(telemetry):
            with clew.request("r-17"):
                await asyncio.gather(work(), asyncio.create_task(work()), asyncio.to_thread(asyncio.run, work()))
            assert telemetry.calls("work").request_ids == ["r-17"] * 3

        def test_threads(telemetry):
            threads = [threading.Thread(target=asyncio.run, args=(work(),)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert telemetry.calls("work").count == telemetry.metric("operation.duration").count == 4
        """
    )
    done.assert_outcomes(passed=2)


def test_coroutines_of_pytest_asyncio_are_captured(run: Run) -> None:
    pytest.importorskip("pytest_asyncio")
    done = run(
        """
        import clew, pytest

        @pytest.mark.asyncio
        async def test_it(telemetry):
            with clew.request("r-17"), clew.measure("work"):
                pass
            assert telemetry.calls("work").request_ids == ["r-17"]
        """
    )
    done.assert_outcomes(passed=1)


def test_workers_of_xdist_capture_each_for_itself_and_report_to_the_terminal(run: Run) -> None:
    pytest.importorskip("xdist")
    done = run(
        """
        import clew, pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(telemetry, number):
            with clew.request(f"r-{number}"), clew.measure("work"):
                pass
            assert telemetry.calls("work").request_ids == [f"r-{number}"]
            assert number < 5
        """,
        "-n2",
    )
    done.assert_outcomes(passed=5, failed=1)
    done.stdout.fnmatch_lines(["*-- Telemetry --*", "work *r-5"])


def test_plugins_may_be_named_instead_of_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    tests = """
        def test_it(telemetry):
            assert telemetry.calls().count == 0
        """
    run(tests, "-p", "clew").assert_outcomes(passed=1)
    run(tests).assert_outcomes(errors=1)


def test_capturing_works_without_pytest_too() -> None:
    import clew
    from clew.testing import capture

    with capture() as telemetry:
        assert clew.configure() is telemetry
        with clew.request("r-17"), clew.measure("work"):
            pass
        assert telemetry.calls("work").request_ids == ["r-17"]
    with pytest.raises(RuntimeError, match="while the test runs"):
        telemetry.metric("operation.duration")


def test_the_example_of_the_page_passes(run: Run) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text()
    run(page.partition("```python\n")[2].partition("```")[0]).assert_outcomes(passed=2)


def test_the_canonical_line_is_there_and_no_record_is_held_in_a_test(run: Run) -> None:
    done = run(
        """
        import clew, logging, shop

        def test_lines(telemetry):
            clew.configure(logs="interesting", logs_canonical=True)
            with clew.request("r-17"):
                shop.checkout(["tea"])
                assert telemetry.request("r-17").texts == ["charging 1"]
            line = telemetry.request("r-17").log_lines[-1]
            assert line.logger == "clew.canonical"
            assert line.text.startswith("checkout succeeded")

        def test_the_next_test_has_none(telemetry):
            with clew.request("r-18"):
                shop.checkout(["tea"])
            assert telemetry.request("r-18").texts == ["charging 1"]
            assert logging.getLogger("clew.canonical").level == logging.NOTSET
        """,
        shop=SHOP,
    )
    done.assert_outcomes(passed=2)


def test_a_name_that_nothing_has_fails_the_test_that_asks_for_it(run: Run) -> None:
    done = run(
        """
        import pytest, clew, shop

        def test_misspelt_operation(telemetry):
            shop.checkout(["tea"])
            assert telemetry.calls("chekout").count == 0

        def test_misspelt_with_attributes(telemetry):
            assert not telemetry.calls("checkuot", {"tier": "gold"})

        def test_misspelt_metric(telemetry):
            shop.checkout(["tea"])
            assert telemetry.metric("order").value == 0

        def test_a_failure_of_its_own_is_not_talked_over(telemetry):
            assert telemetry.calls("chekout").count == 1
        """,
        "-rN",
        shop=SHOP,
    )
    done.assert_outcomes(failed=4)
    done.stdout.fnmatch_lines(
        [
            "telemetry.calls('chekout'): there is no operation of this name*There are 'checkout'*may_be_unknown=True)",
            "telemetry.calls('checkuot'): *'checkout'*",
            "telemetry.metric('order'): there is no metric of this name*There are 'orders'*",
        ]
    )
    assert str(done.stdout).count("there is no operation of this name") == 2


def test_that_something_was_not_called_can_be_asserted(run: Run) -> None:
    done = run(
        """
        import threading
        import clew, shop

        unused = clew.counter("unused")

        def test_a_function_was_not_called_and_a_counter_not_used(telemetry):
            assert telemetry.calls("checkout").count == 0
            assert telemetry.metric("unused").value == 0

        def test_a_block_was_not_come_to(telemetry):
            assert telemetry.calls("charge", may_be_unknown=True).count == 0
            assert telemetry.metric("http.server.request.duration", may_be_unknown=True).count == 0

        def test_it_is_asked_for_until_it_is_there(telemetry):
            thread = threading.Timer(0.1, shop.checkout, [["tea"]])
            thread.start()
            while not telemetry.calls("charge").count:
                thread.join(0.01)

        def test_before_and_after(telemetry):
            assert telemetry.calls("charge").count == 0
            shop.checkout(["tea"])
            assert telemetry.calls("charge").count == 1
        """,
        shop=SHOP,
    )
    done.assert_outcomes(passed=4)


def test_without_pytest_the_end_of_the_block_reports_it_unless_something_else_went_wrong() -> None:
    with pytest.raises(AssertionError, match=r"telemetry\.calls\('typo'\)"), capture() as telemetry:
        assert telemetry.calls("typo").count == 0
    with pytest.raises(KeyError), capture() as telemetry:
        raise KeyError(telemetry.calls("typo").count)
    with capture() as telemetry:
        assert telemetry.calls("typo", may_be_unknown=True).count == 0
