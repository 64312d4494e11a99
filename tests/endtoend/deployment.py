"""A whole deployment: the shop → the Collector → Prometheus by remote write, and → the local collector beside it."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from real_parts import (
    CONFIGURATIONS,
    Parts,
    Program,
    Prometheus,
    collector_binary,
    environment_without_settings,
    free_port,
    listens,
)
from shop.load import Sent
from shop.running import CLEW, PAYMENTS_INSTANCES, LocalCollector, RunningShop, local_collector, running_shop

Protocol = Literal["grpc", "http/protobuf"]
Counts = dict[tuple[str, ...], int]

CHECKOUT = "POST /carts/{cart_id}/checkout"
ALSO_LOCAL = {
    "exporters": {"otlp_http/local": {"endpoint": "${env:LOCAL_COLLECTOR_URL}"}},
    "service": {
        "pipelines": {
            "metrics": {"exporters": ["prometheus_remote_write", "otlp_http/local"]},
            "traces": {"exporters": ["otlp_http/local"]},
            "logs": {"exporters": ["otlp_http/local"]},
        }
    },
}
"""What is merged over prometheus.yaml: everything goes to the local collector as well."""


class Collector:
    """The real Collector with prometheus.yaml and `ALSO_LOCAL`; restarted, it has the same addresses."""

    def __init__(self, parts_folder: Path, prometheus: Prometheus, local: LocalCollector) -> None:
        self._folder = parts_folder
        self._overlay = parts_folder / "also-local.yaml"
        self._overlay.write_text(json.dumps(ALSO_LOCAL))  # JSON is YAML
        self._settings = {
            "COLLECTOR_GRPC_ENDPOINT": f"127.0.0.1:{free_port()}",
            "COLLECTOR_HTTP_ENDPOINT": f"127.0.0.1:{free_port()}",
            "COLLECTOR_REMOTE_WRITE_URL": prometheus.remote_write_url,
            "LOCAL_COLLECTOR_URL": local.http,
        }
        self._starts = 0
        self._program: Program | None = None

    def endpoint(self, protocol: Protocol) -> str:
        """Where OTLP is received by this protocol."""
        return "http://" + self._settings[f"COLLECTOR_{'GRPC' if protocol == 'grpc' else 'HTTP'}_ENDPOINT"]

    def start(self) -> None:
        """Starts it; returns once it receives OTLP."""
        self._starts += 1
        configurations = [CONFIGURATIONS / "prometheus.yaml", self._overlay]
        self._program = program = Program(
            f"collector-{self._starts}",
            [collector_binary(), *(part for file in configurations for part in ("--config", str(file)))],
            self._folder,
            environment_without_settings() | self._settings,
        )
        addresses = [self._settings["COLLECTOR_GRPC_ENDPOINT"], self._settings["COLLECTOR_HTTP_ENDPOINT"]]
        program.wait_until(lambda: "Everything is ready" in program.log() and all(map(listens, addresses)))

    def kill(self) -> None:
        """Ends it as a power cut would."""
        assert self._program is not None
        self._program.kill()
        self._program = None

    def stop(self) -> None:
        """Asks it to end, which it does after it has passed on what it holds."""
        if self._program is not None:
            status = self._program.stop()
            assert status == 0, self._program.log()[-4000:]


@dataclass
class Deployment:
    """Its running parts."""

    shop: RunningShop
    collector: Collector
    prometheus: Prometheus
    local: LocalCollector


@dataclass
class Day:
    """A day of the shop that is over, with all that was under way arrived: nothing changes any more."""

    shop: RunningShop
    sent: Sent
    prometheus: Prometheus
    store: Path

    def counts(self, metric: str, *labels: str, job: str = ".*") -> Counts:
        """What Prometheus has counted by these labels; what it counted none of is not listed."""
        series = self.prometheus.query(f'sum by ({", ".join(labels)}) ({metric}{{job=~"{job}"}}) != 0')
        counted = {tuple(one["metric"].get(label, "") for label in labels): float(one["value"][1]) for one in series}
        assert all(number.is_integer() for number in counted.values()), counted
        return {key: int(number) for key, number in counted.items()}

    def log(self, service: str) -> str:
        """All that the instances of a service have logged."""
        names = PAYMENTS_INSTANCES if service == "payments" else (service,)
        return "".join(self.shop.log_files[name].read_text() for name in names)

    def report(self) -> list[dict[str, Any]]:
        """The operations of ``clew report``."""
        return list(ask("report", "--store", str(self.store))["operations"])


@contextmanager
def running_deployment(parts: Parts, folder: Path, protocol: Protocol, **settings: str) -> Generator[Deployment]:
    """Runs all parts; at the block's end the shop ends, and the Collector after it has passed on what it holds."""
    prometheus = parts.prometheus()
    with local_collector(folder) as local:
        collector = Collector(folder, prometheus, local)
        try:
            collector.start()
            with running_shop(collector.endpoint(protocol), folder, protocol=protocol, settings=settings) as shop:
                yield Deployment(shop, collector, prometheus, local)
        finally:
            collector.stop()


def ask(*arguments: str) -> dict[str, Any]:
    """What ``clew`` answers as JSON."""
    answer = subprocess.run(
        [*CLEW, *arguments, "--format", "json"], capture_output=True, text=True, check=False, timeout=180
    )
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout))


def http_counts(sent: Sent) -> Counts:
    """What the front has to count for what was sent: by method, route, status and error type."""
    counts: Counter[tuple[str, ...]] = Counter()
    for request in sent.requests:
        method, route = request.route.split(" ", 1)
        error = "" if request.status < "500" else "ZeroDivisionError" if request.status == "500" else request.status
        counts[method, route, request.status, error] += 1
    return dict(counts)


def operation_counts(sent: Sent) -> Counts:
    """What all services have to count for what was sent: by service, operation and error type."""
    count = sent.count
    paid, declined, sold_out = count(CHECKOUT, "201"), count(CHECKOUT, "402"), count(CHECKOUT, "409")
    broken, away = count(CHECKOUT, "500"), count(CHECKOUT, "503")
    counts = {
        ("front", "search products", ""): count("GET /search"),
        ("front", "check out", ""): paid + declined + sold_out,
        ("front", "check out", "ZeroDivisionError"): broken,
        ("front", "check out", "shop.till.PaymentsUnavailable"): away,
        ("front", "reserve stock", ""): paid + declined + sold_out + away,
        ("front", "charge card", ""): paid,
        ("front", "charge card", "declined"): declined,
        ("front", "charge card", "shop.till.PaymentsUnavailable"): away,
        ("payments", "take payment", ""): paid,
        ("payments", "take payment", "declined"): declined,
        ("payments", "take payment", "shop.provider.ProviderUnavailable"): away,
        ("payments", "ask provider", ""): paid + declined,
        ("payments", "ask provider", "shop.provider.ProviderUnavailable"): away,
        ("worker", "send order", ""): paid,
        ("worker", "pack order", ""): paid,
        ("worker", "hand over", ""): paid,
    }
    return {key: number for key, number in counts.items() if number}
