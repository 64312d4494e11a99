"""The file: nothing acknowledged is lost, one writer, bounds that hold, and no harm to files that are not ours."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clew.local.store import StoreError, WritableStore

HOUR = 3600 * 10**9


def size_of(store):
    """The size of the store and its log, at one moment: the store is looked at before the log and after it."""
    log = store.with_name(f"{store.name}-wal")
    while True:
        before = store.stat()
        size = before.st_size
        with contextlib.suppress(FileNotFoundError):
            size += log.stat().st_size
        after = store.stat()
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return size


def test_what_was_acknowledged_survives_kill_9(start_collector, clew, exports, now):
    collector = start_collector()
    acknowledged: list[int] = []
    killed = threading.Event()

    def send(worker):
        for number in range(worker, 100_000, 4):
            line = exports.log_line(f"line {number}", at=now + number, attributes={"request_id": "all"})
            try:
                status = collector.post("/v1/logs", line.SerializeToString()).status
            except OSError:
                break
            assert status == 200
            acknowledged.append(number)
            if len(acknowledged) == 300:
                killed.set()

    workers = [threading.Thread(target=send, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    assert killed.wait(90)
    collector.stop(signal.SIGKILL)
    for worker in workers:
        worker.join()
    found = clew("follow", "all", "--store", collector.store, "--format", "json").json["events"]
    assert {f"line {number}" for number in acknowledged} <= {event["text"] for event in found}
    # And the next one goes on with the same file.
    again = start_collector()
    again.send(exports.log_line("after", at=now, attributes={"request_id": "all"}))
    assert len(clew("follow", "all", "--store", collector.store, "--format", "json").json["events"]) == len(found) + 1


def test_a_series_is_known_by_the_same_digest_in_every_store(stored, exports):
    stored.send(exports.histogram([0.1], at=3 * 10**9, start=10**9))
    with contextlib.closing(sqlite3.connect(stored.store)) as connection:
        ((identity,),) = connection.execute("SELECT identity FROM series").fetchall()
    assert identity.hex() == "4ce90c52a0580491b27a2826ab886cc2"


def test_a_second_writer_is_refused_with_words_and_the_first_goes_on(collector, clew, exports, now):
    second = clew("local", "--store", collector.store, "--grpc-port", 0, "--http-port", 0)
    assert second.status == 3
    assert "already has a writer" in second.stderr
    assert str(collector.process.pid) in second.stderr
    assert second.stdout == ""
    collector.send(exports.log_line("still here", at=now))


def test_another_name_of_the_same_file_is_the_same_store(collector, clew, tmp_path):
    link = tmp_path / "link.sqlite"
    link.symlink_to(collector.store)
    assert "already has a writer" in clew("local", "--store", link, "--grpc-port", 0, "--http-port", 0).stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_with_status_0(collector, clew, exports, now, number):
    collector.send(exports.log_line("kept", at=now, attributes={"request_id": "r"}))
    assert collector.stop(number) == 0
    assert collector.stderr == ""
    assert not collector.store.with_name("clew.sqlite-wal").exists()
    assert clew("follow", "r", "--store", collector.store).status == 0


def test_ports_in_use_are_named(collector, clew, tmp_path):
    for protocol in ("http", "grpc"):
        taken = getattr(collector, protocol).rsplit(":")[-1]
        other = {"http": "grpc", "grpc": "http"}[protocol]
        refused = clew("local", "--store", tmp_path / "b.sqlite", f"--{protocol}-port", taken, f"--{other}-port", 0)
        assert refused.status == 3
        assert taken in refused.stderr


def foreign(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()


def no_sqlite(path):
    path.write_bytes(b"my diary\n" * 100)


def short(path):
    path.write_bytes(b"SQLite format 3\0")


def of_tomorrow(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id=1668048247")
        connection.execute("PRAGMA user_version=999")
        connection.execute("CREATE TABLE x (y)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (foreign, "another program's"),
        (no_sqlite, "not a SQLite file"),
        (short, "not a SQLite file"),
        (of_tomorrow, "another version"),
    ],
)
def test_a_file_that_is_not_a_store_of_ours_is_refused_and_left_as_it_is(clew, tmp_path, make, says):
    path = tmp_path / "theirs.db"
    make(path)
    before, files = path.read_bytes(), sorted(os.listdir(tmp_path))
    for command in (
        ("local", "--grpc-port", 0, "--http-port", 0),
        ("report",),
        ("follow", "x"),
        ("around", "x"),
    ):
        refused = clew(*command, "--store", path)
        assert refused.status == 3
        assert says in refused.stderr
        assert str(path) in refused.stderr
        assert "Traceback" not in refused.stderr
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == files


def test_a_damaged_store_is_refused_and_left_as_it_is(start_collector, clew, exports, now):
    collector = start_collector()
    for number in range(50):
        collector.send(exports.log_line("x" * 2000, at=now + number, attributes={"request_id": "r"}))
    collector.stop()
    whole = collector.store.read_bytes()
    page = 4096
    for damaged in (whole[: len(whole) // 2], whole[:page] + os.urandom(20 * page) + whole[21 * page :]):
        collector.store.write_bytes(damaged)
        refused = clew("local", "--store", collector.store, "--grpc-port", 0, "--http-port", 0)
        assert refused.status == 3
        assert "is damaged" in refused.stderr
        assert collector.store.read_bytes() == damaged
        for command in (("report",), ("follow", "r"), ("around", "r")):
            answer = clew(*command, "--store", collector.store)
            assert answer.status in (1, 3)
            assert "Traceback" not in answer.stderr
    assert collector.store.read_bytes() == damaged


def flipped(whole, random):
    damaged = bytearray(whole)
    for _ in range(random.choice((1, 8, 64, 512))):
        damaged[random.randrange(100, len(whole))] = random.choice((0, 255, random.randrange(256)))
    return bytes(damaged)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(random=st.randoms(use_true_random=False))
def test_whatever_is_damaged_in_a_store_is_reported_in_a_sentence_or_left_out(stored, clew, exports, now, random):
    if not hasattr(stored, "whole"):
        metrics = lines = None
        for number in range(20):
            attributes = {"request_id": "r", "number": number}
            lines = exports.log_line("words " * 20, at=now + number, attributes=attributes, message=lines)
            metrics = exports.histogram([0.1] * number, at=now + number, start=now - HOUR, message=metrics)
        stored.send(metrics, lines)
        stored.whole = stored.store.read_bytes()
    stored.store.write_bytes(flipped(stored.whole, random))
    for command in (("report",), ("follow", "r"), ("around", "r")):
        answer = clew(*command, "--store", stored.store)
        assert answer.status in (0, 1, 3)
        if answer.status == 3:
            assert answer.stderr.count("\n") == 1
            assert "damaged" in answer.stderr


def ask(clew, path, status, says, *, write=True):
    commands = [("report",), ("follow", "x"), ("around", "x")]
    if write:
        commands.append(("local", "--grpc-port", 0, "--http-port", 0))
    for command in commands:
        refused = clew(*command, "--store", path)
        assert refused.status == status
        assert says in refused.stderr
        assert refused.stderr.count("\n") == 1, refused.stderr


def test_a_store_with_a_second_name_is_refused_with_and_without_a_writer(collector, clew, exports, now, tmp_path):
    collector.send(exports.log_line("kept", at=now, attributes={"request_id": "r"}))
    other = tmp_path / "other.sqlite"
    other.hardlink_to(collector.store)
    ask(clew, other, 3, "2 names (hard links)")
    collector.stop()
    ask(clew, other, 3, "2 names (hard links)")
    other.unlink()
    assert clew("follow", "r", "--store", collector.store).status == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only there the file itself is locked")
def test_a_store_that_was_moved_under_its_writer_is_refused(collector, clew, tmp_path):
    moved = tmp_path / "moved.sqlite"
    collector.store.rename(moved)
    refused = clew("local", "--store", moved, "--grpc-port", 0, "--http-port", 0)
    assert refused.status == 3
    assert "already has a writer, under another name" in refused.stderr


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(clew, tmp_path):
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    ask(clew, pipe, 3, "not a regular file")
    ask(clew, "/dev/null", 3, "not a regular file", write=False)
    ask(clew, tmp_path, 3, "not a regular file", write=False)
    ask(clew, loop, 3, "cannot be a store: Too many levels of symbolic links")
    ask(clew, tmp_path / ("n" * 300), 3, "cannot be a store: File name too long", write=False)


@pytest.mark.parametrize("suffix", ["-draft", "-lock"])
def test_a_folder_in_the_place_of_a_file_beside_the_store_is_named(clew, tmp_path, suffix):
    (tmp_path / f"clew.sqlite{suffix}").mkdir()
    refused = clew("local", "--store", tmp_path / "clew.sqlite", "--grpc-port", 0, "--http-port", 0)
    assert refused.status == 3
    assert str(tmp_path / "clew.sqlite") in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_an_empty_file_is_no_store_yet_and_becomes_one(start_collector, clew, exports, now, tmp_path):
    empty = tmp_path / "clew.sqlite"
    empty.touch()
    ask(clew, empty, 3, "there is no store", write=False)
    start_collector(store=empty).send(exports.log_line("kept", at=now, attributes={"request_id": "r"}))
    assert clew("follow", "r", "--store", empty).status == 0


def test_a_store_that_another_program_locks_is_not_called_damaged(stored, clew):
    with contextlib.closing(sqlite3.connect(stored.store, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE").fetchall()
        other.execute("BEGIN EXCLUSIVE")
        refused = clew("report", "--store", stored.store)
    assert refused.status == 3
    assert "cannot be read: database is locked" in refused.stderr


@pytest.fixture
def without_rights():
    """A folder, and a way to make it read-only for all; a test that runs as root goes on as nobody."""
    folder = Path(mkdtemp())
    folder.chmod(0o755)

    def seal():
        for path in folder.iterdir():
            path.chmod(0o444)
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)

    user = os.geteuid()
    try:
        yield folder, seal
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_store_in_a_folder_that_is_read_only_is_read(stored, clew, exports, now, without_rights):
    folder, seal = without_rights
    stored.send(exports.log_line("kept", at=now, attributes={"request_id": "r"}))
    shutil.copy(stored.store, folder)
    assert clew("follow", "r", "--store", stored.store).status == 0  # what it imports is imported while it may be read
    seal()
    answer = clew("follow", "r", "--store", folder / "clew.sqlite")
    assert (answer.status, answer.stderr) == (0, "")
    assert "kept" in answer.stdout
    assert clew("report", "--store", folder / "clew.sqlite").status == 1
    with pytest.raises(StoreError, match=r"cannot be (locked for writing|opened as a store)"):
        WritableStore(folder / "clew.sqlite")


def test_one_whose_last_rows_are_still_in_the_log_says_so_where_it_cannot_be_read(
    start_collector, clew, exports, now, without_rights
):
    folder, seal = without_rights
    collector = start_collector()
    collector.send(exports.log_line("kept", at=now, attributes={"request_id": "r"}))
    collector.stop(signal.SIGKILL)
    for suffix in ("", "-wal"):
        shutil.copy(f"{collector.store}{suffix}", folder)
    assert clew("follow", "r", "--store", collector.store).status == 0
    seal()
    answer = clew("follow", "r", "--store", folder / "clew.sqlite")
    assert answer.status == 3
    assert "its folder is read-only" in answer.stderr
    assert "clew.sqlite-wal" in answer.stderr


@pytest.mark.parametrize("path", ["missing/clew.sqlite", "."])
def test_a_place_where_no_file_can_be_is_named(clew, tmp_path, path):
    refused = clew("local", "--store", tmp_path / path, "--grpc-port", 0, "--http-port", 0)
    assert refused.status == 3
    assert str(tmp_path) in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_size_holds_under_a_stream_of_log_lines_and_metrics_stay(start_collector, clew, exports, now):
    limit = 3 * 2**20
    collector = start_collector("--max-size", str(limit))
    collector.send(exports.histogram([0.2] * 7, at=now, start=now - HOUR // 60))
    sizes: list[int] = []
    sent = threading.Event()

    def watch():
        while not sent.wait(0.001):
            with contextlib.suppress(FileNotFoundError):
                sizes.append(size_of(collector.store))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for batch in range(60):
            message = exports.log_line(f"{batch} first", at=now + batch * 1000)
            records = message.resource_logs[0].scope_logs[0].log_records
            for number in range(200):
                records.add(time_unix_nano=now + batch * 1000 + number).body.string_value = f"{batch} {'x' * 700}"
            collector.send(message)
    finally:
        sent.set()
        watcher.join()
    assert max(sizes) <= limit
    assert max(sizes) > limit // 2
    with contextlib.closing(sqlite3.connect(f"file:{collector.store}?mode=ro", uri=True)) as connection:
        kept = [int(body.split()[0]) for (body,) in connection.execute("SELECT body FROM log_lines ORDER BY time")]
    assert kept[-1] == 59
    assert kept[0] > 20
    assert len(kept) > 1000
    assert clew("report", "--store", collector.store, "--format", "json").json["operations"][0]["calls"] == 7
    assert collector.stderr == ""


def test_a_log_line_too_large_for_the_store_is_rejected_not_swallowed(start_collector, exports, now):
    collector = start_collector("--max-size", "2MiB")
    answer = collector.post("/v1/logs", exports.log_line("x" * 2**20, at=now).SerializeToString())
    assert answer.status == 200
    assert b"larger than an eighth of --max-size" in answer.body
    assert size_of(collector.store) <= 2 * 2**20


def test_what_is_older_than_max_age_goes_but_metrics_stay_49_hours(start_collector, clew, exports, now):
    collector = start_collector("--max-age", "1h")
    began = now - 60 * HOUR
    for hours, calls in ((55, 10), (50, 20), (26, 30), (0, 45)):
        collector.send(exports.histogram([0.2] * calls, at=now - hours * HOUR, start=began))
    collector.send(
        exports.log_line("old", at=now - 2 * HOUR, attributes={"request_id": "r"}),
        exports.span("old", start=now - 2 * HOUR, end=now - 2 * HOUR, trace_id=b"t" * 16, span_id=b"s" * 8),
        exports.log_line("new", at=now, attributes={"request_id": "r"}),
    )
    collector.stop()
    collector = start_collector("--max-age", "1h")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        events = clew("follow", "r", "--store", collector.store, "--format", "json").json["events"]
        with contextlib.closing(sqlite3.connect(f"file:{collector.store}?mode=ro", uri=True)) as connection:
            times = [at for (at,) in connection.execute("SELECT time FROM points ORDER BY time")]
        if len(events) == 1 and len(times) == 3:
            break
    assert [event["text"] for event in events] == ["new"]
    # The point of 55 hours ago is gone; that of 50 hours ago is the baseline for what comes after it.
    assert times == [now - 50 * HOUR, now - 26 * HOUR, now]
    report = clew("report", "--store", collector.store, "--window", "27h", "--compare", "22h", "--format", "json").json
    assert report["operations"][0]["calls"] == 45 - 20


def test_a_full_disk_makes_senders_retry_and_nothing_is_lost(collector, clew, exports, now):
    resource = pytest.importorskip("resource", reason="limits of the operating system")
    limit = resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE, (300_000, limit[1]))
    stored = refused = 0
    for number in range(40):
        line = exports.log_line("x" * 20_000, at=now + number, attributes={"request_id": "r"})
        answer = collector.post("/v1/logs", line.SerializeToString())
        if answer.status == 503:
            refused += 1
            assert answer.headers["Retry-After"]
        else:
            stored += answer.status == 200
    assert refused
    assert stored
    assert stored + refused == 40
    resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE, limit)
    for number in range(40):  # the sender tries again
        collector.send(exports.log_line("x" * 20_000, at=now + number, attributes={"request_id": "r"}))
    assert len(clew("follow", "r", "--store", collector.store, "--format", "json").json["events"]) == 40
    assert collector.stop() == 0
    assert "cannot take it now" in collector.stderr


def test_exports_under_way_when_it_ends_are_answered(start_collector, clew, exports, now):
    collector = start_collector()
    answered: list[tuple[int, int]] = []

    def send(worker):
        for number in range(worker, 100_000, 4):
            line = exports.log_line(f"line {number}", at=now + number, attributes={"request_id": "all"})
            try:
                answered.append((number, collector.post("/v1/logs", line.SerializeToString()).status))
            except OSError:
                return

    workers = [threading.Thread(target=send, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 60
    while len(answered) < 50 and time.monotonic() < deadline:
        workers[0].join(0.01)
    assert collector.stop() == 0
    for worker in workers:
        worker.join()
    kept = {number for number, status in answered if status == 200}
    found = clew("follow", "all", "--store", collector.store, "--format", "json").json["events"]
    assert kept <= {int(event["text"].split()[1]) for event in found}
    assert len(kept) >= 50
