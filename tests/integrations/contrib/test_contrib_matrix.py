"""The column of the matrix that opentelemetry-python-contrib fills: what its instrumentations record has the ID.

Real servers as in tests/matrix, each application instrumented by contrib and by us, in the stable conventions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from matrix.asking import FAILED, REFUSED, SPOKEN, STREAMED, TAKEN, Asking
from matrix.received import exemplar_ids, points, spans
from matrix.stacks import HTTP, STACKS, Stack, of, of_module

pytest.importorskip("opentelemetry.instrumentation.asgi", reason="opentelemetry-instrumentation-* is not installed")

CONTRIB = "opentelemetry.instrumentation."
SERVER = 2
"""The number of a span's kind."""


@pytest.fixture(scope="module")
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """What came of a server."""
    variables = {"SHOP_CONTRIB": "1", "OTEL_SEMCONV_STABILITY_OPT_IN": "http"}
    with closing(Asking(tmp_path_factory.mktemp, of_module(request), **variables)) as asking:
        yield asking


@of(STACKS)
def test_beside_contrib_the_id_is_bound_and_echoed(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    assert (outcome.answers["item"].body, outcome.answers["item"].echoed) == (TAKEN, TAKEN)
    assert outcome.answers["fresh"].echoed == outcome.fresh != TAKEN
    assert outcome.answers["refuses"].echoed == REFUSED
    assert outcome.answers["fails"].echoed == (None if stack.answers_500_itself else FAILED)
    assert outcome.answers["stream"].body.split() == [STREAMED] * 3


@of(HTTP)
def test_the_exemplars_of_contrib_s_durations_have_it(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    found = points(outcome.endpoint, "http.server.request.duration")
    assert {scope.startswith(CONTRIB) for scope, _, _ in found} == {True}
    assert sum(point.count for _, _, point in found) == (6 if stack.protocol == "aiohttp" else 5)  # a websocket too
    assert all(point.exemplars for _, _, point in found)
    ids = exemplar_ids(found)
    assert ids & {FAILED, REFUSED}
    assert ids <= {TAKEN, outcome.fresh, FAILED, REFUSED, STREAMED, SPOKEN}


@of(STACKS)
def test_the_server_spans_of_contrib_have_it(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    found = [attributes.get("request_id") for span, attributes in spans(outcome.endpoint) if span.kind == SERVER]
    assert {TAKEN, outcome.fresh, FAILED, REFUSED, STREAMED} <= set(found)
    assert None not in found


@of(STACKS)
def test_the_clients_of_contrib_send_it_on(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    assert outcome.outgoing == [TAKEN, outcome.fresh]
