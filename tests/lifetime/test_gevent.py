"""A program that gevent patches once `clew` has begun to export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from delivery.listeners import eventually
from lifetime.receiver import logs

PROGRAM = """
from pathlib import Path
import gevent.monkey

telemetry = clew.configure()
logging.getLogger("program").info("of a thread")
gevent.monkey.patch_all()
while not Path("go-on").exists():
    time.sleep(0.01)
logging.getLogger("program").info("of a greenlet")
telemetry.force_flush(60)
"""


def test_each_log_record_is_sent_once_though_a_greenlet_takes_the_place_of_the_thread(
    start: Callable[..., Any], http: Any, tmp_path: Any
) -> None:
    pytest.importorskip("gevent")
    program = start(PROGRAM, http.port, OTEL_BLRP_SCHEDULE_DELAY="3000")
    eventually(lambda: logs(http))
    (tmp_path / "go-on").touch()
    assert program.end() == 0, program.errors
    assert [text for _, text in logs(http)] == ["of a thread", "of a greenlet"], program.errors
