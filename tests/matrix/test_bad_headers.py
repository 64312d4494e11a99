"""Whatever a client writes into the header: it gets its answer, and nothing of it goes anywhere.

Raw bytes over sockets to real servers in processes of their own. A server may refuse bytes itself; then we saw nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matrix.asking import Outcome, served, unchunked
from matrix.received import exemplar_ids, log_records, points, spans
from matrix.stacks import HTTP, Stack
from serving import Address, parse

from clew.propagation.ids import is_valid

SERVERS = [stack for stack in HTTP if stack.framework in ("plain", "server")]

MARK = b"EvIl"
"""Stands in every bad value, so that it is found wherever it gets to."""

BAD = [
    b"",
    b" ",
    b"EvIl \x00 nul",
    b"EvIl!\r\nInjected: yes",
    b"EvIl!\nInjected: yes",
    b"EvIl!\rInjected: yes",
    b"EvIl\tx",
    b"EvIl\x7f\x1b[31m",
    b"EvIl\xff\xfe",
    "EvIl‮＜ｓｃｒｉｐｔ＞İ".encode(),
    b"EvIl'; DROP TABLE requests; --",
    b'EvIl"} 1 # {a="b',
    b"EvIl${jndi:ldap://x}%s%n",
    b"EvIl" + b"x" * 115,
    b"EvIl" + b"x" * 65_532,
]


def ask(port: int, *values: bytes, name: bytes = b"X-Request-ID") -> None:
    """Ask with these values of the header; the answer, where the application made it, has a valid ID."""
    head = [b"GET /items/7 HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close"]
    received = Address("127.0.0.1", port).send(
        b"\r\n".join([*head, *(name + b": " + value for value in values), b"", b""]), timeout=60
    )
    if not received:  # the server has closed the connection
        return
    response = parse(received)
    assert response.all("injected") == []
    echoed = response.all("x-request-id")
    assert len(echoed) == (1 if response.status == 200 else 0), response
    if response.status == 200:
        assert is_valid(echoed[0])
        assert MARK.decode() not in echoed[0]
        assert unchunked(response) == echoed[0]


def expect_nothing_of_it(outcome: Outcome) -> None:
    mark = MARK.decode()
    ids = exemplar_ids(points(outcome.endpoint, "operation.duration"))
    ids |= exemplar_ids(points(outcome.endpoint, "http.server.request.duration"))
    ids |= set(outcome.outgoing)
    ids |= {attributes.get("request_id") for _, attributes in spans(outcome.endpoint)}
    assert ids
    for name in ids:
        assert is_valid(name)
        assert mark not in str(name)
    logged = [text for logger, text, _ in log_records(outcome.endpoint) if logger == "clew" and "not valid" in text]
    assert len(logged) == 1
    assert logged[0].isascii()
    assert logged[0].isprintable()
    for logger, text, attributes in log_records(outcome.endpoint):
        assert mark not in str(attributes.get("request_id"))
        assert logger != "shop" or mark not in text + str(attributes)  # a server may log what it has refused
    for line in outcome.lines:
        found = re.match(r"LINE (\S+) \[(.*?)\] ", line)
        assert found is None or found[2] == "-" or (is_valid(found[2]) and mark not in found[2]), line


@contextmanager
def unharmed(stack: Stack, folder: Path) -> Iterator[int]:
    with served(stack, folder) as (outcome, port):
        yield port
        ask(port, b"a fine one?")  # it still answers
    expect_nothing_of_it(outcome)


@pytest.mark.parametrize("stack", SERVERS, ids=str)
def test_a_bad_value_never_costs_the_client_its_answer_and_goes_nowhere(stack: Stack, tmp_path: Path) -> None:
    with unharmed(stack, tmp_path) as port:
        for value in BAD:
            ask(port, value)
        ask(port, b"EvIl one", b"EvIl two")
        ask(port, b"", b"EvIl two")
        ask(port, b"EvIl x", name=b"x-ReQuEsT-iD")


@pytest.mark.parametrize("stack", [SERVERS[0], SERVERS[3]], ids=str)
def test_whatever_bytes_come_only_a_valid_id_goes_on(stack: Stack, tmp_path: Path) -> None:
    values = st.lists(st.binary(max_size=60).map(lambda some: MARK + b"!" + some), min_size=1, max_size=3)

    @given(values)
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def whatever(some: list[bytes]) -> None:
        ask(port, *some)

    with unharmed(stack, tmp_path) as port:
        whatever()
