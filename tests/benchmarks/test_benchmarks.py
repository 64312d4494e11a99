"""The benchmark runs, records exactly what it claims, and reports what it found. No time is ever asserted."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

CLEW_FORMS = {
    "clew-decorator",
    "clew-decorator-async",
    "clew-block",
    "clew-block-async",
    "clew-generator",
    "clew-async-generator",
    "clew-constant-attributes",
    "clew-computed-attributes",
    "clew-set",
    "clew-counter",
    "clew-counter-bound",
    "clew-histogram",
    "clew-histogram-bound",
}
OTHERS = {
    "prometheus_client": {"prometheus-bound", "prometheus-labels", "prometheus-exemplar", "prometheus-time"},
    "autometrics": {"autometrics-prometheus", "autometrics-opentelemetry"},
    "logfire": {"logfire"},
}


@dataclass
class Finished:
    """A quick run: what it printed, and the files that it wrote."""

    text: str
    found: dict[str, Any]
    svg: str


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("benchmarks")
    done = benchmark("--quick", "--json", str(folder / "found.json"), "--svg", str(folder / "costs.svg"))
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(done.stdout, json.loads((folder / "found.json").read_text()), (folder / "costs.svg").read_text())


def keys(part: list[dict[str, Any]]) -> set[str]:
    return {one["key"] for one in part}


def test_every_contestant_recorded_exactly_the_calls_that_were_made(finished: Finished) -> None:
    assert finished.found["mistakes"] == []
    assert "Every contestant recorded exactly what was done." in finished.text


def test_all_forms_of_clew_take_part_and_claim_what_they_record(finished: Finished) -> None:
    contest = {one["key"]: one for one in finished.found["contest"]}
    assert contest.keys() >= CLEW_FORMS
    for key in CLEW_FORMS:
        assert "exemplar" in contest[key]["emits"]
        assert contest[key]["calls"] > 0


def test_contestants_whose_package_is_missing_are_left_out_and_named(finished: Finished) -> None:
    present = keys(finished.found["contest"])
    for package, contestants in OTHERS.items():
        if find_spec(package) is None:
            assert not present & contestants
            assert any(named.startswith(package) for named in finished.found["missing"])
            assert package in finished.text.partition("Left out:")[2]
        else:
            assert present >= contestants


def test_each_cost_has_a_median_within_its_quartiles_and_ratios(finished: Finished) -> None:
    for one in finished.found["contest"]:
        assert one["whole_ns"]["low"] <= one["whole_ns"]["median"] <= one["whole_ns"]["high"]
        assert one["cost_ns"]["low"] <= one["cost_ns"]["median"] <= one["cost_ns"]["high"]
        if not one["key"].startswith("bare"):
            assert one["ratios"].keys() >= {"minimum", "sdk-request-id"}
    by_key = {one["key"]: one for one in finished.found["contest"]}
    assert by_key["minimum"]["ratios"]["minimum"]["median"] == 1
    assert by_key["bare"]["cost_ns"]["median"] == 0


def test_what_is_not_configured_is_compared_with_an_empty_wrapper(finished: Finished) -> None:
    disabled = {one["key"]: one for one in finished.found["disabled"]}
    assert disabled.keys() >= {"disabled-decorator", "disabled-decorator-async", "disabled-block", "disabled-counter"}
    assert disabled["disabled-decorator"]["ratios"].keys() == {"empty-wrapper"}


def test_four_threads_lose_no_measurement(finished: Finished) -> None:
    threads = {one["key"]: one for one in finished.found["threads"]}
    assert threads.keys() >= {"bare", "minimum", "clew-decorator", "clew-block", "sdk-request-id"}
    assert all(one["lost"] == 0 for key, one in threads.items() if key != "bare")
    assert threads["bare"]["lost"] is None


def test_memory_import_and_collection_are_measured_in_interpreters_of_their_own(finished: Finished) -> None:
    assert keys(finished.found["memory"]) >= {"hand-made", "clew", "clew-threads", "sdk", "sdk-histogram"}
    assert all(one["bytes"] > 0 for one in finished.found["memory"])
    assert finished.found["import"].keys() == {"pairs", "sdk", "sdk_and_clew", "difference"}
    collection = finished.found["collection"]
    assert collection["sets"] == 10_000
    assert collection["mistakes"] == []
    for side in ("clew", "sdk"):
        for what in ("collecting", "computing"):
            assert collection["waits"][side][what]["calls"] > 0
            assert collection["waits"][side][what]["runs"] > 0


def test_each_goal_says_what_was_measured_and_whether_that_is_met(finished: Finished) -> None:
    goals = finished.found["goals"]
    assert len({goal["what"] for goal in goals}) == len(goals) == 16
    for goal in goals:
        if goal["measured"] is None:  # it needs a package that is not installed
            assert goal["met"] is None
            assert "prometheus_client" in goal["what"]
        else:
            reached = goal["measured"] >= goal["limit"] if goal["at_least"] else goal["measured"] <= goal["limit"]
            assert goal["met"] is reached
        assert goal["what"] in finished.text


def test_machine_python_and_package_versions_are_in_the_output(finished: Finished) -> None:
    machine = finished.found["machine"]
    assert machine["python"] == sys.version.split()[0]
    assert machine["cores"] >= 1
    assert machine["packages"]["opentelemetry-sdk"]
    assert machine["recorder"] != "NoneType"
    for shown in (
        machine["python"],
        machine["recorder"],
        f"opentelemetry-sdk {machine['packages']['opentelemetry-sdk']}",
    ):
        assert shown in finished.text
    assert "A SMOKE RUN" in finished.text


def test_the_plot_is_an_svg_that_shows_everything_that_records(finished: Finished) -> None:
    drawn = ElementTree.fromstring(finished.svg)
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text or "" for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    for one in finished.found["contest"]:
        if one["emits"]:
            assert any(text.endswith(one["label"]) for text in texts), one["label"]


def test_a_single_part_can_be_measured_alone(tmp_path: Path) -> None:
    done = benchmark("--quick", "--parts", "disabled", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["disabled"]
    assert found["contest"] is found["threads"] is found["memory"] is None
    assert [goal["met"] for goal in found["goals"] if "minimum" in goal["what"]] == [None, None]


def test_wrong_options_are_refused_with_words() -> None:
    assert "is not 1 or more" in benchmark("--rounds", "0").stderr
    assert "invalid choice: 'nothing'" in benchmark("--parts", "nothing").stderr
