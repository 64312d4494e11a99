"""collector-config/gateway.yaml: TLS, a token, a queue on disk; its backend here is a Collector with local.yaml."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from certificates import Authority
from google.protobuf.message import Message
from otlp_sender import Credentials, Protocol, logs_message, metrics_message, send, traces_message
from real_parts import Collector, Parts, eventually, free_port, get

pytestmark = pytest.mark.real

TOKEN = "007-a.token~of+its/own="
REFUSED = {"grpc": "UNAUTHENTICATED", "http": "401"}
COME_AGAIN = {"grpc": {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}, "http": {"503", "429"}}

both_protocols = pytest.mark.parametrize("protocol", ["grpc", "http"])


@dataclass
class Place:
    """An authority, the gateway's settings, and what its clients show."""

    authority: Authority
    settings: dict[str, str]
    credentials: Credentials


def _place(directory: Path, backend_url: str) -> Place:
    authority = Authority()
    certificate, key = authority.server().write(directory / "tls", "server")
    settings = {
        "COLLECTOR_TLS_CERT": certificate,
        "COLLECTOR_TLS_KEY": key,
        "COLLECTOR_TOKEN": TOKEN,
        "COLLECTOR_STORAGE_DIR": str(directory / "queue"),
        "COLLECTOR_BACKEND_URL": backend_url,
    }
    return Place(authority, settings, Credentials(authority.certificate, TOKEN))


@pytest.fixture(scope="module")
def backend(shared_parts: Parts) -> Collector:
    return shared_parts.collector("local.yaml")


@pytest.fixture(scope="module")
def place(backend: Collector, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return _place(tmp_path_factory.mktemp("gateway"), backend.http_endpoint)


@pytest.fixture(scope="module")
def gateway(shared_parts: Parts, place: Place) -> Collector:
    return shared_parts.collector("gateway.yaml", **place.settings)


@both_protocols
def test_all_three_signals_pass_with_tls_and_the_token(
    gateway: Collector, place: Place, backend: Collector, protocol: Protocol
) -> None:
    sent = {f"metric-{protocol}", f"span-{protocol}", f"line-{protocol}"}
    assert send(protocol, gateway, metrics_message(f"metric-{protocol}"), place.credentials) == "taken"
    assert send(protocol, gateway, traces_message(f"span-{protocol}"), place.credentials) == "taken"
    assert send(protocol, gateway, logs_message(f"line-{protocol}"), place.credentials) == "taken"
    eventually(lambda: sent <= _arrived(backend), what="all three are with the backend")


@both_protocols
@pytest.mark.parametrize("token", ["wrong", TOKEN + "x", TOKEN[:-1], None], ids=repr)
def test_a_wrong_or_missing_token_is_refused_and_nothing_passes(
    gateway: Collector, place: Place, backend: Collector, protocol: Protocol, token: str | None
) -> None:
    request_id = f"intruder-{protocol}-{len(token or '')}"
    assert (
        send(protocol, gateway, metrics_message(request_id), replace(place.credentials, token=token))
        == REFUSED[protocol]
    )
    # What is sent afterwards, with the token, passes; by then the refused one would have too.
    assert send(protocol, gateway, metrics_message(f"after-{request_id}"), place.credentials) == "taken"
    eventually(lambda: f"after-{request_id}" in _arrived(backend), what="the one with the token arrives")
    assert request_id not in _arrived(backend)


@both_protocols
def test_a_sender_without_tls_is_not_answered(gateway: Collector, protocol: Protocol) -> None:
    plain = Plain(gateway)
    assert send(protocol, plain, metrics_message("plain")) in {"no connection", "400"}


@both_protocols
def test_a_sender_that_trusts_another_authority_does_not_connect(
    gateway: Collector, place: Place, protocol: Protocol
) -> None:
    elsewhere = replace(place.credentials, authority=Authority("Another").certificate)
    assert send(protocol, gateway, metrics_message("elsewhere"), elsewhere) == "no connection"


def test_the_health_check_and_its_own_metrics_answer_on_loopback(gateway: Collector) -> None:
    assert get(gateway.health_url).status == 200
    page = get(gateway.own_metrics_url).text
    for signal, exporter in [("metrics", "otlp_http/metrics"), ("traces", "otlp_http"), ("logs", "otlp_http")]:
        assert re.search(rf'otelcol_exporter_queue_size{{.*data_type="{signal}".*exporter="{exporter}".*}}', page), page


@both_protocols
def test_with_a_client_authority_only_senders_with_its_certificate_get_in(
    parts: Parts, tmp_path: Path, backend: Collector, protocol: Protocol
) -> None:
    place = _place(tmp_path, backend.http_endpoint)
    clients = Authority("The senders' authority")
    authority_file = tmp_path / "clients.crt"
    authority_file.write_bytes(clients.certificate)
    gateway = parts.collector("gateway.yaml", **place.settings, COLLECTOR_TLS_CLIENT_CA=str(authority_file))

    own, foreign = clients.client(), Authority("A stranger").client()
    with_own = replace(place.credentials, certificate=own.certificate, key=own.key)
    assert send(protocol, gateway, metrics_message(f"mutual-{protocol}"), with_own) == "taken"
    assert send(protocol, gateway, metrics_message("none"), place.credentials) == "no connection"
    with_foreign = replace(place.credentials, certificate=foreign.certificate, key=foreign.key)
    assert send(protocol, gateway, metrics_message("foreign"), with_foreign) == "no connection"
    without_token = replace(with_own, token=None)
    assert send(protocol, gateway, metrics_message("tokenless"), without_token) == REFUSED[protocol]


def test_tokens_in_a_file_are_exchanged_without_a_restart(parts: Parts, tmp_path: Path, backend: Collector) -> None:
    place = _place(tmp_path, backend.http_endpoint)
    tokens = tmp_path / "tokens"
    tokens.write_text("first-token\nsecond-token # for the newcomers\n")
    gateway = parts.collector("gateway.yaml", **place.settings, COLLECTOR_TOKEN_FILE=str(tokens))

    def answer(token: str) -> str:
        return send("http", gateway, metrics_message(token), replace(place.credentials, token=token))

    assert answer("first-token") == answer("second-token") == "taken"
    assert answer(TOKEN) == REFUSED["http"]
    tokens.write_text("third-token\n")
    eventually(lambda: answer("third-token") == "taken", what="the new token counts")
    assert answer("first-token") == REFUSED["http"]


def test_what_was_acknowledged_survives_a_missing_backend_and_a_sudden_end(parts: Parts, tmp_path: Path) -> None:
    backend_port = free_port()
    place = _place(tmp_path, f"http://127.0.0.1:{backend_port}")
    gateway = parts.collector("gateway.yaml", **place.settings)
    acknowledged = _send_until_killed(gateway, place.credentials, at_least=60)

    restarted = parts.collector("gateway.yaml", **gateway.settings)
    assert send("grpc", restarted, metrics_message("after-the-restart"), place.credentials) == "taken"
    backend = parts.collector("local.yaml", COLLECTOR_HTTP_ENDPOINT=f"127.0.0.1:{backend_port}")
    expected = acknowledged | {"after-the-restart"}
    eventually(lambda: _all_arrived(expected, backend), what="all acknowledged exports arrive", timeout=90)


def test_a_full_queue_makes_senders_retry_and_loses_nothing_it_accepted(parts: Parts, tmp_path: Path) -> None:
    backend_port = free_port()
    place = _place(tmp_path, f"http://127.0.0.1:{backend_port}")
    gateway = parts.collector("gateway.yaml", **place.settings, COLLECTOR_QUEUE_BYTES="4000")
    taken: set[str] = set()
    answers: dict[str, str] = {}
    for number in range(200):
        protocol: Protocol = "grpc" if number % 2 else "http"
        answers[protocol] = send(protocol, gateway, metrics_message(f"full-{number}"), place.credentials)
        if answers[protocol] == "taken":
            taken.add(f"full-{number}")
        if len(answers) == 2 and "taken" not in answers.values():
            break
    assert taken
    assert answers["grpc"] in COME_AGAIN["grpc"]
    assert answers["http"] in COME_AGAIN["http"]

    backend = parts.collector("local.yaml", COLLECTOR_HTTP_ENDPOINT=f"127.0.0.1:{backend_port}")
    eventually(lambda: _all_arrived(taken, backend), what="all that was taken arrives", timeout=90)
    eventually(
        lambda: send("http", gateway, metrics_message("room-again"), place.credentials) == "taken",
        what="there is room again",
    )


def test_metrics_can_go_to_a_place_of_their_own(parts: Parts, tmp_path: Path, backend: Collector) -> None:
    metrics_only = parts.collector("local.yaml")
    place = _place(tmp_path, backend.http_endpoint)
    gateway = parts.collector(
        "gateway.yaml", **place.settings, COLLECTOR_METRICS_URL=f"{metrics_only.http_endpoint}/v1/metrics"
    )
    assert send("http", gateway, metrics_message("own-place"), place.credentials) == "taken"
    assert send("http", gateway, logs_message("usual-place"), place.credentials) == "taken"
    eventually(lambda: "own-place" in _arrived(metrics_only), what="the metric is in its own place")
    eventually(lambda: "usual-place" in _arrived(backend), what="the log line is in the usual place")
    assert "own-place" not in _arrived(backend)


def test_a_gateway_can_have_a_gateway_behind_it(parts: Parts, tmp_path: Path, backend: Collector) -> None:
    inner_place = _place(tmp_path / "inner", backend.http_endpoint)
    inner = parts.collector("gateway.yaml", **inner_place.settings)
    outer_place = _place(tmp_path / "outer", inner.http_endpoint)
    authority_file = tmp_path / "inner.crt"
    authority_file.write_bytes(inner_place.authority.certificate)
    outer = parts.collector(
        "gateway.yaml",
        **outer_place.settings,
        COLLECTOR_BACKEND_CA=str(authority_file),
        COLLECTOR_BACKEND_AUTHORIZATION=f"Bearer {TOKEN}",
    )
    assert send("grpc", outer, metrics_message("through-two"), outer_place.credentials) == "taken"
    assert send("grpc", outer, logs_message("line-through-two"), outer_place.credentials) == "taken"
    eventually(lambda: _all_arrived({"through-two", "line-through-two"}, backend), what="both have passed two gateways")


class Plain(Collector):
    """A gateway as a sender sees it that knows nothing of TLS."""

    def __init__(self, gateway: Collector) -> None:  # starts nothing
        self.grpc_endpoint = gateway.grpc_endpoint.replace("https", "http")
        self.http_endpoint = gateway.http_endpoint.replace("https", "http")


def _arrived(backend: Collector) -> set[str]:
    """The request IDs that the backend has printed."""
    return set(re.findall(r"request_id: Str\(([^)]*)\)", backend.log()))


def _all_arrived(expected: set[str], backend: Collector) -> bool:
    missing = expected - _arrived(backend)
    assert not missing, f"{len(missing)} of {len(expected)} are missing, among them {sorted(missing)[:5]}"
    return True


def _send_until_killed(gateway: Collector, credentials: Credentials, *, at_least: int) -> set[str]:
    """Sends all signals from four threads, kills the gateway amid them; the request IDs it had acknowledged."""
    acknowledged: set[str] = set()
    ended = threading.Event()
    messages = [metrics_message, traces_message, logs_message]

    def keep_sending(sender: int) -> None:
        number = 0
        while not ended.is_set():
            request_id = f"sent-{sender}-{number}"
            message: Message = messages[number % len(messages)](request_id)
            if send("grpc" if sender % 2 else "http", gateway, message, credentials) == "taken":
                acknowledged.add(request_id)
            number += 1

    senders = [threading.Thread(target=keep_sending, args=(sender,)) for sender in range(4)]
    for sender in senders:
        sender.start()
    try:
        eventually(lambda: len(acknowledged) >= at_least, what=f"{at_least} exports are acknowledged")
        gateway.kill()
    finally:
        ended.set()
        for sender in senders:
            sender.join()
    return acknowledged
