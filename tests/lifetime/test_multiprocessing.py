"""Children of `multiprocessing` send their own at their end, whatever starts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from delivery.listeners import silence, talking
from durations import assert_within
from lifetime.conftest import PREAMBLE, SLACK
from lifetime.receiver import instances, logs, spans, totals
from lifetime.test_forks import COUNTERS, exact

CHILDREN = PREAMBLE.replace(
    "import clew\n",
    """import clew
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

telemetry = clew.configure()
plain = metrics.get_meter("library").create_counter("plain")

def works(times):
    for _ in range(times):
        work()
    return os.getpid()
""",
)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_sends_its_own(method: str, run: Callable[..., Any], http: Any) -> None:
    run(
        f"""
if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    works(3)
    children = [context.Process(target=works, args=(number,)) for number in (1, 5)]
    for child in children: child.start()
    for child in children: child.join()
    assert [child.exitcode for child in children] == [0, 0]
    work()
""",
        http.port,
        preamble=CHILDREN,
    )
    exact(http, 4, 1, 5)
    assert len(instances(http)) == 3


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_has_the_users_instance_id_with_its_own_number(
    method: str, run: Callable[..., Any], http: Any
) -> None:
    program = run(
        f"""
if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    work()
    child = context.Process(target=works, args=(2,))
    child.start()
    child.join()
    print("CHILD", child.pid)
""",
        http.port,
        preamble=CHILDREN,
        OTEL_RESOURCE_ATTRIBUTES="service.instance.id=web-1",
    )
    assert totals(http, "orders") == {"web-1": 1, f"web-1-{program.values('CHILD')[0]}": 2}
    assert instances(http) == set(totals(http, "orders"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("how", ["close", "terminate"])
def test_the_workers_of_a_pool_send_their_own(method: str, how: str, run: Callable[..., Any], http: Any) -> None:
    run(
        f"""
if __name__ == "__main__":
    pool = multiprocessing.get_context("{method}").Pool(2)
    pool.map(works, [1, 2, 3, 4], chunksize=1)
    pool.{how}()
    pool.join()
""",
        http.port,
        preamble=CHILDREN,
    )
    for name in COUNTERS:
        assert sum(totals(http, name).values()) == 10, name
    assert len(spans(http)) == 10
    assert len(logs(http)) == 10


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_of_an_executor_send_their_own(method: str, run: Callable[..., Any], http: Any) -> None:
    run(
        f"""
if __name__ == "__main__":
    works(1)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("{method}")) as executor:
        list(executor.map(works, [1, 2, 3, 4]))
""",
        http.port,
        preamble=CHILDREN,
    )
    for name in COUNTERS:
        assert sum(totals(http, name).values()) == 11, name
    assert len(spans(http)) == 11


def test_a_process_that_fails_sends_its_own(run: Callable[..., Any], http: Any) -> None:
    run(
        """
def fails():
    work()
    raise RuntimeError("on purpose")

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=fails)
    child.start()
    child.join()
    assert child.exitcode == 1
""",
        http.port,
        preamble=CHILDREN,
    )
    exact(http, 1)


def test_a_process_ends_in_time_though_the_collector_hangs(run: Callable[..., Any]) -> None:
    def attempt() -> float:
        with talking(silence) as port:
            program = run(
                """
def works_and_ends():
    work()
    print("LEFT", time.monotonic(), flush=True)

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=works_and_ends)
    child.start()
    child.join()
    print("JOINED", time.monotonic(), flush=True)
""",
                port,
                preamble=CHILDREN,
                CLEW_SHUTDOWN_TIMEOUT="1",
            )
        assert "not delivered at the end" in program.errors
        return float(program.values("JOINED")[0]) - float(program.values("LEFT")[0])

    assert_within(1.0 + SLACK, attempt)


def test_a_process_that_configures_itself_sends_its_own(run: Callable[..., Any], http: Any) -> None:
    program = run(
        """
import multiprocessing

def works():
    global plain
    clew.configure()
    plain = metrics.get_meter("library").create_counter("plain")
    work()

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=works)
    child.start()
    child.join()
    print("CHILD", child.pid)
""",
        http.port,
        OTEL_RESOURCE_ATTRIBUTES="service.instance.id=job",
    )
    exact(http, 1)
    assert instances(http) == {f"job-{program.values('CHILD')[0]}"}


def test_a_process_forked_by_the_fork_server_that_has_configured_counts_from_zero(
    run: Callable[..., Any], http: Any
) -> None:
    run(
        """
if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__"])
    children = [context.Process(target=works, args=(number,)) for number in (1, 5)]
    for child in children: child.start()
    for child in children: child.join()
""",
        http.port,
        preamble=CHILDREN,
    )
    exact(http, 1, 5)
