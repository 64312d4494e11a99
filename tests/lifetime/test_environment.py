"""What the environment says when a program starts, before and at `clew.configure()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lifetime.test_exit import START, all_three_signals_arrived

IMPORTS = {
    "clew first": "import clew\nfrom opentelemetry import propagate\n",
    "the API first": "from opentelemetry import propagate\nimport clew\n",
    "the API alone": "from opentelemetry import propagate\n",
}


@pytest.mark.parametrize("imports", IMPORTS)
def test_the_api_loads_the_propagator_by_its_name_whatever_is_imported_first(
    imports: str, run: Callable[..., Any]
) -> None:
    program = run(
        IMPORTS[imports] + "print('FIELDS', *propagate.get_global_textmap().fields)",
        preamble="",
        OTEL_PROPAGATORS="request_id",
    )
    assert program.values("FIELDS") == ["X-Request-ID"]
    assert not program.errors


def test_what_cannot_be_made_is_reported_with_everything_that_cannot(run: Callable[..., Any]) -> None:
    program = run(
        """
import importlib.metadata as metadata
real = metadata.entry_points
class Broken:
    name = "broken"
    def load(self): raise RuntimeError("on purpose")
from clew.exporters import from_settings
from clew.settings import otel_variables
def points(*, group, name=None):
    if group in ("opentelemetry_metrics_exporter", "opentelemetry_traces_exporter") and name in (None, "broken"):
        return [Broken()]
    return real(group=group, **({} if name is None else {"name": name}))
from_settings.entry_points = otel_variables.entry_points = points
try:
    clew.configure()
except clew.ConfigurationError as error:
    print("SAID", *sorted(problem.name for problem in error.problems))
assert "Proxy" in type(metrics.get_meter_provider()).__name__
os.environ["CLEW_STRICT"] = "false"
telemetry = clew.configure()
assert telemetry.settings.metric_exporters == telemetry.settings.span_exporters == ("otlp",)
""",
        OTEL_METRICS_EXPORTER="broken",
        OTEL_TRACES_EXPORTER="broken",
        CLEW_SHUTDOWN_TIMEOUT="0.2",
    )
    assert program.values("SAID") == ["OTEL_METRICS_EXPORTER OTEL_TRACES_EXPORTER"]
    assert program.errors.count("these are treated as unset") == 1


def test_disabled_a_program_runs_and_sends_nothing(run: Callable[..., Any], http: Any) -> None:
    program = run(
        START + "assert telemetry.force_flush()".replace("telemetry", "clew.configure()"),
        http.port,
        OTEL_SDK_DISABLED="true",
    )
    assert not http.received.messages
    assert "not delivered" not in program.errors


def test_a_program_with_wrong_settings_that_is_not_strict_sends_all_the_same(
    run: Callable[..., Any], http: Any
) -> None:
    program = run(START, http.port, CLEW_STRICT="false", CLEW_SPANS="perhaps", OTEL_METRIC_EXPORT_INTERVAL="soon")
    assert all_three_signals_arrived(http)
    assert program.errors.count("these are treated as unset") == 1
