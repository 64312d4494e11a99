"""What Celery's worker logs about a task has the ID of its request."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from pathlib import Path

from delivery.listeners import HttpEndpoint
from matrix.received import log_records
from matrix.stacks import APPLICATIONS, require
from real_parts import Program, environment_without_settings

SENDER = """
import clew
from celery_tasks import application

for name, task, arguments in (("task-1", "look_up", ["7"]), ("task-2", "fail", [])):
    with clew.request(name):
        application.send_task(task, arguments)
"""


def test_the_lines_of_a_worker_have_the_id(tmp_path: Path) -> None:
    require("celery")
    with closing(HttpEndpoint()) as endpoint:
        environment = {
            **environment_without_settings(),
            "PYTHONPATH": str(APPLICATIONS),
            "BROKER_FOLDER": str(tmp_path),
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "CLEW_SHUTDOWN_TIMEOUT": "20",
        }
        sender = Program("sender", [sys.executable, "-c", SENDER], tmp_path, environment)
        assert sender.process.wait(60) == 0, sender.log()
        sender.stop()
        command = ["-m", "celery", "-A", "celery_tasks:application", "worker", "--pool", "solo", "--loglevel", "INFO"]
        worker = Program("worker", [sys.executable, *command, "--without-mingle"], tmp_path, environment)
        try:
            worker.wait_until(lambda: "raised unexpected" in worker.log() and "succeeded" in worker.log(), timeout=60)
        finally:
            worker.stop(timeout=30)
    found = re.findall(r"^LINE (\S+) \[(\S+)\] (.*)", worker.log(), re.MULTILINE)
    told = {(logger, name) for logger, name, text in found if "succeeded" in text or "raised unexpected" in text}
    assert told == {("celery.app.trace", "task-1"), ("celery.app.trace", "task-2")}
    assert [name for _, name, text in found if text.endswith("received")] == ["-", "-"]  # before it is begun
    sent = {
        (attributes.get("request_id"), "raised" in text)
        for logger, text, attributes in log_records(endpoint)
        if logger == "celery.app.trace"
    }
    assert sent == {("task-1", False), ("task-2", True)}
