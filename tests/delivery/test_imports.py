"""What an import costs: the libraries of a protocol come with its first export, not before."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from clew.delivery import LogBatchProcessor, PeriodicReader, SpanBatchProcessor
from clew.exporters import log_exporters, metric_exporters, span_exporters
from clew.settings import load_settings
settings = load_settings({})
PeriodicReader(metric_exporters(settings)[0])
SpanBatchProcessor(span_exporters(settings)[0])
LogBatchProcessor(log_exporters(settings)[0])
print(sorted({"grpc", "requests", "urllib3", "google.protobuf", "rich", "yaml"}.intersection(sys.modules)))
"""


def test_making_the_exporters_imports_no_transport() -> None:
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=180, check=True)
    assert answer.stdout == "[]\n"
