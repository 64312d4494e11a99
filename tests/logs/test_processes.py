"""What is held when a process ends or forks."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
from lifetime.receiver import logs
from lifetime.rights import may_unshare

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no signals, no fork")

HOLD = {"CLEW_LOGS": "interesting", "CLEW_LOGS_SLOW": "3600", "CLEW_LOGS_CANONICAL": "true"}

BEGIN = """
import io
from clew.integrations.logging import HoldingHandler
log = logging.getLogger("shop")
written = HoldingHandler(logging.StreamHandler(sys.stdout))
written.setFormatter(logging.Formatter("%(message)s"))
written.target.setFormatter(logging.Formatter("WROTE %(message)s"))
log.addHandler(written)
clew.configure()
"""


def texts(endpoint: Any, *words: str) -> list[str]:
    return [text for _, text in logs(endpoint) if text.startswith(words)]


@pytest.mark.parametrize(
    ("end", "status"),
    [("sys.exit(0)", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1)],
)
def test_the_end_of_the_interpreter_releases_what_is_held(
    end: str, status: int, run: Callable[..., Any], http: Any
) -> None:
    program = run(
        BEGIN
        + f"""
logged = threading.Event()
def work():
    with clew.request():
        log.info("under way in a thread")
        logged.set()
        threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
with clew.request("done"):
    log.info("dropped")
entered = clew.request("r-1")
entered.__enter__()
log.info("under way")
logged.wait()
{end}
""",
        http.port,
        status=status,
        **HOLD,
    )
    expected = ["under way", "under way in a thread"]
    assert sorted(texts(http, "under way", "dropped")) == expected
    assert sorted(program.values("WROTE")) == expected


def test_sigterm_releases_what_is_held(start: Callable[..., Any], http: Any) -> None:
    program = start(
        BEGIN
        + """
with clew.request("done"):
    log.info("dropped")
with clew.request("r-1"):
    log.info("under way")
    print("READY", flush=True)
    time.sleep(60)
""",
        http.port,
        **HOLD,
    )
    program.wait_for("READY")
    program.signal(signal.SIGTERM)
    assert program.end() == -signal.SIGTERM, program.errors
    assert texts(http, "under way", "dropped") == ["under way"]
    assert program.values("WROTE") == ["under way"]


@pytest.mark.skipif(not may_unshare(), reason="a PID namespace needs rights")
def test_the_first_process_of_a_container_releases_what_is_held_at_sigterm_and_goes_on(
    start: Callable[..., Any], http: Any
) -> None:
    program = start(
        BEGIN
        + """
with clew.request("r-1"):
    log.info("under way")
    os.kill(1, signal.SIGTERM)
    log.info("under way still")
""",
        http.port,
        command=("unshare", "--pid", "--fork", sys.executable, "{program}"),
        **HOLD,
    )
    assert program.end() == 0, program.errors
    expected = ["under way", "under way still"]
    assert texts(http, "under way") == expected
    assert program.values("WROTE") == expected


@pytest.mark.parametrize("lock", ["written.target.lock", "tracking.current.held_logs._lock"])
def test_sigterm_is_not_held_up_by_a_lock_that_the_interrupted_code_has(
    lock: str, start: Callable[..., Any], http: Any
) -> None:
    program = start(
        BEGIN
        + f"""
from clew.logs import tracking
with clew.request("r-1"):
    log.info("under way")
    with {lock}:
        print("READY", flush=True)
        time.sleep(60)
""",
        http.port,
        **HOLD,
    )
    program.wait_for("READY")
    program.signal(signal.SIGTERM)
    assert program.end() == -signal.SIGTERM, program.errors
    assert texts(http, "under way") == ["under way"]


def test_a_forked_child_drops_what_it_inherited_and_holds_for_its_own_requests(
    run: Callable[..., Any], http: Any
) -> None:
    program = run(
        BEGIN
        + """
with clew.request("r-1"):
    log.info("of the parent")
    child = os.fork()
    if child == 0:
        log.info("child in the request of the parent")
        with clew.request("r-2"):
            log.info("child dropped")
        try:
            with clew.request("r-3"):
                log.info("child kept")
                raise ValueError
        except ValueError:
            pass
        log.error("child failed")
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    log.error("parent failed")
""",
        http.port,
        **HOLD,
    )
    found = texts(http, "of the parent", "child", "parent")
    assert sorted(found) == sorted(
        ["of the parent", "parent failed", "child in the request of the parent", "child kept", "child failed"]
    )
    assert program.values("WROTE").count("of the parent") == 1


def test_the_end_of_the_inherited_request_in_a_child_is_not_logged_there(run: Callable[..., Any], http: Any) -> None:
    run(
        BEGIN
        + """
child = None
with clew.request("r-1"):
    log.info("of the parent")
    child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
""",
        http.port,
        **HOLD,
    )
    assert texts(http, "of the parent") == []
    assert len(texts(http, "request succeeded")) == 1


def test_what_fails_in_a_child_releases_nothing_that_the_parent_has_held(run: Callable[..., Any], http: Any) -> None:
    program = run(
        BEGIN
        + """
from clew.logs import tracking
child = None
try:
    with clew.request("r-1"):
        log.info("of the parent")
        with tracking.current.held_logs._lock:  # as another thread may have it at the fork
            child = os.fork()
        if child == 0:
            log.error("of the child")
            raise ValueError
except ValueError:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
        http.port,
        **HOLD,
    )
    assert texts(http, "of the") == ["of the child"]
    assert program.values("WROTE") == ["of the child"]


def test_a_fork_while_threads_log_leaves_a_child_that_holds(run: Callable[..., Any], http: Any) -> None:
    run(
        BEGIN
        + """
log.removeHandler(written)
over = threading.Event()
def ever():
    while not over.is_set():
        with clew.request():
            for _ in range(10): log.info("noise")
for _ in range(4): threading.Thread(target=ever, daemon=True).start()
children = []
for number in range(10):
    child = os.fork()
    if child == 0:
        with clew.request():
            log.info("child %d", number)
            log.error("child %d failed", number)
        sys.exit(0)
    children.append(child)
over.set()
for child in children: assert os.waitpid(child, 0)[1] == 0
""",
        http.port,
        **HOLD,
    )
    found = texts(http, "child")
    assert sorted(found) == sorted([f"child {n}" for n in range(10)] + [f"child {n} failed" for n in range(10)])


def test_a_process_of_multiprocessing_decides_on_its_own_work(run: Callable[..., Any], http: Any) -> None:
    run(
        BEGIN
        + """
import multiprocessing
from clew.integrations import concurrency
concurrency.instrument()
def work(fails):
    log.info("working %s", fails)
    if fails: raise ValueError
with clew.request("r-1"):
    for fails in (False, True):
        process = multiprocessing.get_context("fork").Process(target=work, args=(fails,))
        process.start()
        process.join()
""",
        http.port,
        **HOLD,
    )
    assert texts(http, "working") == ["working True"]


def test_a_canonical_line_arrives_whole(run: Callable[..., Any], http: Any) -> None:
    run(
        BEGIN
        + """
with clew.request("r-1"), clew.measure("check out") as m:
    m.note("order.id", "8f3c")
""",
        http.port,
        **HOLD,
    )
    (line,) = [
        record
        for message in http.received.messages
        for resource in getattr(message, "resource_logs", ())
        for scope in resource.scope_logs
        for record in scope.log_records
        if scope.scope.name == "clew.canonical"
    ]
    fields = {attribute.key: attribute.value for attribute in line.attributes}
    assert fields["order.id"].string_value == "8f3c"
    assert fields["request_id"].string_value == "r-1"
    (operation,) = fields["request.operations"].kvlist_value.values
    assert operation.key == "check out"
    runs = {each.key: each.value for each in operation.value.kvlist_value.values}
    assert (runs["count"].int_value, runs["failed"].int_value) == (1, 0)
    assert 0 < runs["duration"].double_value <= fields["request.duration"].double_value


DJANGO = """
import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from wsgiref.util import setup_testing_defaults
import clew.integrations.django

def order(request, number):
    log.info("looking for %d", number)
    return HttpResponse(100 // number)

def stream(request, status):
    def parts():
        log.info("streaming %d", status)
        yield b"a"
        yield b"b"
    return StreamingHttpResponse(parts(), status=status)

urlpatterns = [path("orders/<int:number>", order), path("stream/<int:status>", stream)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=MIDDLEWARE, LOGGING_CONFIG=None)
django.setup()
app = WSGIHandler()
if not MIDDLEWARE:
    app = clew.integrations.django.instrument(app)

def ask(where):
    environ = {}
    setup_testing_defaults(environ)
    environ["PATH_INFO"] = where
    answer = app(environ, lambda *_: None)
    b"".join(answer)
    answer.close()

for where in ("/orders/7", "/orders/0", "/stream/200", "/stream/503"):
    ask(where)
"""


@pytest.mark.parametrize("middleware", [[], ["clew.integrations.django.RequestMiddleware"]], ids=["around", "inside"])
def test_django_as_documented(middleware: list[str], run: Callable[..., Any], http: Any) -> None:
    pytest.importorskip("django")
    run(BEGIN + f"MIDDLEWARE = {middleware}\n" + DJANGO, http.port, **HOLD)
    assert texts(http, "looking", "streaming") == ["looking for 0", "streaming 503"]
    names = ["GET /orders/<int:number>", "GET /stream/<int:status>"]
    lines = [text.split(" in ")[0] for text in texts(http, *names)]
    assert [line.split(" (")[0] for line in lines] == [
        f"{names[0]} succeeded",
        f"{names[0]} failed",
        f"{names[1]} succeeded",
        f"{names[1]} failed",
    ]
