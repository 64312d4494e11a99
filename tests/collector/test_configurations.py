"""What holds for every configuration in collector-config/."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from real_parts import CONFIGURATIONS, ROOT, Parts, collector_binary, environment_without_settings

NAMES = sorted(path.name for path in CONFIGURATIONS.glob("*.yaml") if path.name != "builder.yaml")
NEEDED = {"gateway.yaml": {"COLLECTOR_TOKEN": "a-token", "COLLECTOR_BACKEND_URL": "https://backend.example:4318"}}
READ = re.compile(r"\$\{env:(\w+)(?::-([^}]*))?\}")


def _validate(name: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [collector_binary(), "validate", "--config", str(CONFIGURATIONS / name)],
        env=environment_without_settings() | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_three_configurations_are_there() -> None:
    assert NAMES == ["gateway.yaml", "local.yaml", "prometheus.yaml"]


@pytest.mark.real
@pytest.mark.parametrize("name", NAMES)
def test_the_real_collector_finds_the_configuration_valid(name: str) -> None:
    result = _validate(name, **NEEDED.get(name, {}))
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.real
@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("COLLECTOR_TOKEN", "no bearer token provided"),
        ("COLLECTOR_BACKEND_URL", "at least one endpoint must be specified"),
    ],
)
def test_the_gateway_refuses_to_start_without(missing: str, complaint: str) -> None:
    result = _validate(
        "gateway.yaml", **{name: value for name, value in NEEDED["gateway.yaml"].items() if name != missing}
    )
    assert result.returncode != 0
    assert complaint in result.stderr


@pytest.mark.real
def test_the_gateway_does_not_start_without_its_certificate(tmp_path: Path) -> None:
    settings = NEEDED["gateway.yaml"] | {
        "COLLECTOR_TLS_CERT": str(tmp_path / "absent.crt"),
        "COLLECTOR_TLS_KEY": str(tmp_path / "absent.key"),
        "COLLECTOR_STORAGE_DIR": str(tmp_path / "queue"),
        "COLLECTOR_HEALTH_ENDPOINT": "127.0.0.1:0",
        "COLLECTOR_OWN_METRICS_PORT": "0",
        "COLLECTOR_GRPC_ENDPOINT": "127.0.0.1:0",
        "COLLECTOR_HTTP_ENDPOINT": "127.0.0.1:0",
    }
    result = subprocess.run(
        [collector_binary(), "--config", str(CONFIGURATIONS / "gateway.yaml")],
        env=environment_without_settings() | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode != 0
    assert "absent.crt" in result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_a_configuration_reads_is_explained_with_its_default_in_the_file_and_in_the_docs(
    name: str,
) -> None:
    text = (CONFIGURATIONS / name).read_text()
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    settings = "\n".join(line.split(" #")[0] for line in text.splitlines() if not line.startswith("#"))
    docs = (ROOT / "docs" / "collector.md").read_text()
    section = docs.split(f"`{name}`\n", 1)[1].split("\n## ", 1)[0]
    read = {(variable, default) for variable, default in READ.findall(settings)}
    assert read
    for variable, default in read:
        [explained] = re.findall(rf"^# {variable} +(.*)$", comments, re.MULTILINE)
        [documented] = re.findall(rf"^\| `{variable}` \|(.*)$", section, re.MULTILINE)
        for explanation in (explained, documented):
            assert (default or "(") in explanation, (
                f"{variable} has the default {default!r}, not that of {explanation!r}"
            )
    explained_variables = set(re.findall(r"^# (COLLECTOR_\w+) ", comments, re.MULTILINE))
    assert explained_variables == {variable for variable, _ in read}


@pytest.mark.parametrize("name", ["local.yaml", "prometheus.yaml"])
def test_on_a_developer_s_machine_all_listeners_are_on_loopback_by_default(name: str) -> None:
    listeners = re.findall(
        r"^\s+endpoint: \$\{env:\w+_ENDPOINT:-(.*)\}$", (CONFIGURATIONS / name).read_text(), re.MULTILINE
    )
    assert len(listeners) >= 2
    assert [host.rsplit(":", 1)[0] for host in listeners] == ["127.0.0.1"] * len(listeners)


def test_all_modules_of_the_manifest_and_the_builder_are_of_one_release() -> None:
    manifest = (CONFIGURATIONS / "builder.yaml").read_text()
    modules = re.findall(r"gomod: (\S+) (v\S+)", manifest)
    assert {version for module, version in modules if "/confmap/provider/" not in module} == {"v0.159.0"}
    assert {version for module, version in modules if "/confmap/provider/" in module} == {"v1.65.0"}
    assert "version: 0.159.0" in manifest
    assert "BUILDER_VERSION=v0.159.0" in (ROOT / "parts" / "collector.sh").read_text()


def test_a_missing_part_skips_the_test_and_in_ci_fails_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CLEW_TEST_COLLECTOR", raising=False)
    monkeypatch.setattr("real_parts.ROOT", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="run `make parts`"):
        collector_binary()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="run `make parts`"):
        collector_binary()


@pytest.mark.real
def test_the_collector_that_is_named_in_the_environment_is_the_one_that_runs(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = tmp_path / "a-collector"
    os.symlink(collector_binary(), named)
    monkeypatch.setenv("CLEW_TEST_COLLECTOR", str(named))
    collector = parts.collector("local.yaml")
    assert collector.process.args[0] == str(named)  # type: ignore[index]


def test_a_named_collector_that_is_not_there_fails_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEW_TEST_COLLECTOR", "/nowhere/otelcol")
    with pytest.raises(pytest.fail.Exception, match="CLEW_TEST_COLLECTOR=/nowhere/otelcol"):
        collector_binary()
