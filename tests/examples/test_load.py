"""The load driver plans exactly what it was asked for, the same each time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import load


@given(seed=st.integers(), requests=st.integers(1, 2_000), seconds=st.floats(0.1, 3600))
@settings(max_examples=30, deadline=None)
def test_a_plan_has_exactly_as_many_requests_as_asked_for_in_the_time_given(
    seed: int, requests: int, seconds: float
) -> None:
    plan = load.visits(seed, requests, seconds)
    assert sum(len(visit.steps) for visit in plan) == requests
    assert all(0 <= visit.start <= seconds for visit in plan)
    assert [visit.start for visit in plan] == sorted(visit.start for visit in plan)


def test_the_seed_decides_who_comes_and_when() -> None:
    def outline(seed: int) -> list[tuple[float, str | None, int, tuple[float, ...]]]:
        return [
            (visit.start, visit.name, len(visit.steps), tuple(visit.pauses)) for visit in load.visits(seed, 1_000, 30)
        ]

    assert outline(7) == outline(7)
    assert outline(7) != outline(8)


def test_some_customers_name_their_requests_and_customers_come_in_rushes() -> None:
    plan = load.visits(1, 10_000, 100)
    named = sum(visit.name is not None for visit in plan) / len(plan)
    assert 0.3 < named < 0.5
    in_rushes = sum(any(abs(visit.start - rush) < 4 for rush in (20, 50, 80)) for visit in plan) / len(plan)
    assert in_rushes > 0.5  # in 24 % of the time


@pytest.fixture
def asked() -> Iterator[tuple[str, list[tuple[str, str, bytes, str | None]]]]:
    """A front that answers everything with the same, and what it was asked."""
    requests: list[tuple[str, str, bytes, str | None]] = []

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            name = self.headers.get("X-Request-ID")
            requests.append((self.command, self.path, body, name))
            answer = b'{"id": "same"}'
            self.send_response(200)
            self.send_header("X-Request-ID", name or "made-here")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_PUT = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", requests
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_same_seed_sends_the_same_and_reports_it_exactly(
    asked: tuple[str, list[tuple[str, str, bytes, str | None]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "PAUSE", 0.02)
    front, requests = asked
    runs: list[list[tuple[str, str, bytes, str | None]]] = []
    for _ in range(2):
        requests.clear()
        status = load.main(
            [front, "--requests", "150", "--seconds", "0.5", "--seed", "5", "--format", "json", "--each"]
        )
        printed = json.loads(capsys.readouterr().out)
        assert status == 0
        assert printed["sent"] == len(printed["requests"]) == len(requests) == 150
        assert sum(count for statuses in printed["outcomes"].values() for count in statuses.values()) == 150
        assert printed["named_by_customers"] == sum(name is not None for *_, name in requests)
        assert {one["request_id"] for one in printed["requests"]} == {name or "made-here" for *_, name in requests}
        runs.append(sorted(requests, key=str))
    assert runs[0] == runs[1]


def test_an_unreachable_front_is_reported_and_is_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    status = load.main(["http://127.0.0.1:1", "--requests", "5", "--seconds", "0.1"])
    assert status == 1
    assert "ConnectError: " in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--requests", "0"], ["--seconds", "-1"], ["--requests", "many"]])
def test_wrong_use_is_exit_status_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load.main(["http://127.0.0.1:1", *wrong])
    assert ended.value.code == 2
