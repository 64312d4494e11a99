"""The request ID everywhere: each test is a column, each of its cases a server and a framework.

Real servers in processes of their own, asked over sockets; judged by what the client, the service behind and an OTLP
endpoint got, and by what the server printed.
"""

from __future__ import annotations

import re

from matrix.asking import FAILED, REFUSED, SPOKEN, STREAMED, TAKEN, Asking, Outcome
from matrix.received import exemplar_ids, log_records, points, spans
from matrix.stacks import GRPC, HTTP, STACKS, Stack, of

from clew.logs_bridge.handler import SERVER_LOGGERS
from clew.propagation.ids import is_valid

HTTP_DURATION = "http.server.request.duration"
RPC_DURATION = "rpc.server.call.duration"


def known(outcome: Outcome) -> set[str]:
    """The IDs of all requests there were."""
    return {TAKEN, FAILED, REFUSED, STREAMED, SPOKEN, outcome.fresh}


@of(STACKS)
def test_the_id_that_comes_in_is_bound(stack: Stack, asked: Asking) -> None:
    assert asked(stack).answers["item"].body == TAKEN


@of(STACKS)
def test_a_request_without_an_id_gets_one(stack: Stack, asked: Asking) -> None:
    answer = asked(stack).answers["fresh"]
    assert is_valid(answer.body)
    assert answer.body != TAKEN
    assert answer.echoed == answer.body


@of(STACKS)
def test_the_answer_echoes_it(stack: Stack, asked: Asking) -> None:
    assert asked(stack).answers["item"].echoed == TAKEN


@of(STACKS)
def test_an_error_that_the_application_answers_echoes_it(stack: Stack, asked: Asking) -> None:
    answer = asked(stack).answers["refuses"]
    assert answer.status in (500, "INTERNAL")
    assert answer.echoed == REFUSED


@of(stack for stack in STACKS if not stack.answers_500_itself)
def test_the_answer_to_an_exception_echoes_it(stack: Stack, asked: Asking) -> None:
    answer = asked(stack).answers["fails"]
    assert answer.status in (500, "UNKNOWN")
    assert answer.echoed == FAILED


@of(stack for stack in STACKS if stack.answers_500_itself)
def test_an_answer_that_the_server_makes_itself_is_none_of_ours(stack: Stack, asked: Asking) -> None:
    answer = asked(stack).answers["fails"]
    assert answer.status == 500
    assert answer.echoed is None


@of(STACKS)
def test_each_part_of_a_stream_is_in_the_request(stack: Stack, asked: Asking) -> None:
    answer = asked(stack).answers["stream"]
    assert answer.body.split() == [STREAMED] * 3
    assert answer.echoed == STREAMED


@of(stack for stack in STACKS if stack.has_websockets)
def test_a_websocket_is_one_request(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    answer = outcome.answers["socket"]
    echoed = None if stack.server == "granian" else SPOKEN  # which sends none of the headers of an acceptance
    assert (answer.status, answer.body, answer.echoed) == (101, SPOKEN, echoed)
    assert ids_of_records(outcome, "shop", "looked up by socket") == [SPOKEN]


def ids_of_records(outcome: Outcome, logger: str, holding: str = "") -> list[str | None]:
    return [
        attributes.get("request_id")
        for name, text, attributes in log_records(outcome.endpoint)
        if name == logger and holding in text
    ]


@of(STACKS)
def test_log_records_have_it(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    assert ids_of_records(outcome, "shop", "7") == [TAKEN, outcome.fresh]


@of(STACKS)
def test_lines_in_a_format_of_one_s_own_have_it(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    printed = [line for line in outcome.lines if line.startswith("LINE shop ") and line.endswith("7")]
    assert [re.findall(r"\[(.+?)\]", line) for line in printed] == [[TAKEN], [outcome.fresh]]


def heads(outcome: Outcome, of: str) -> list[tuple[str, str]]:
    """Logger and ID of each line that `of` follows: a line of its own, or the rest of it."""
    found = zip(outcome.lines, [*outcome.lines[1:], ""], strict=True)
    named = ((re.match(r"LINE (\S+) \[(\S+)\] (.*)", line), after) for line, after in found)
    return [(line[1], line[2]) for line, after in named if line is not None and (of in line[3] or after.startswith(of))]


@of(stack for stack in STACKS if stack.logs_exceptions)
def test_the_traceback_of_a_failed_request_has_it(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    traced = heads(outcome, "Traceback (most recent call last)")
    assert FAILED in {name for _, name in traced}
    assert {name for logger, name in traced if not logger.startswith("_granian")} == {FAILED}
    sent = [
        attributes.get("request_id")
        for _, _, attributes in log_records(outcome.endpoint)
        if attributes.get("exception.message") == "the handler failed"
    ]
    assert sent or any(logger not in SERVER_LOGGERS for logger, _ in traced)
    assert set(sent) <= {FAILED}


@of(STACKS)
def test_spans_have_it(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    found = [attributes.get("request_id") for span, attributes in spans(outcome.endpoint) if span.name == "query"]
    assert found[:2] == [TAKEN, outcome.fresh]


@of(STACKS)
def test_exemplars_of_measured_operations_have_it(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    found = points(outcome.endpoint, "operation.duration")
    assert sum(point.count for _, _, point in found) == (3 if stack.has_websockets else 2)
    ids = exemplar_ids(found)
    assert ids
    assert ids <= {TAKEN, outcome.fresh, SPOKEN}


@of(HTTP)
def test_each_http_request_is_one_point_whose_exemplars_have_it(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    found = points(outcome.endpoint, HTTP_DURATION)
    assert sum(point.count for _, _, point in found) == 5
    failed = [each for each in found if each[1].get("http.response.status_code") == 500 or "error.type" in each[1]]
    assert sum(point.count for _, _, point in failed) == 2
    assert exemplar_ids(failed) == {FAILED, REFUSED}
    ids = exemplar_ids(found)
    assert ids <= known(outcome) - {SPOKEN}
    assert STREAMED in ids or stack.framework == "plain"  # which has one point for all that it answers with 200
    assert [point.as_int for _, _, point in points(outcome.endpoint, "http.server.active_requests")] == [0]


@of(GRPC)
def test_each_call_is_one_point_whose_exemplars_have_it(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    found = points(outcome.endpoint, RPC_DURATION)
    assert sum(point.count for _, _, point in found) == 5
    assert exemplar_ids(each for each in found if each[1]["rpc.method"].endswith("Fail")) == {FAILED}
    assert exemplar_ids(found) <= known(outcome)


@of(STACKS)
def test_outgoing_calls_carry_it(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    assert outcome.outgoing == [TAKEN, outcome.fresh]


def access_lines(stack: Stack, outcome: Outcome) -> dict[str, str]:
    """The ID on the access line of each path."""
    logger = stack.access_logger
    paths = ("/fails", "/refuses", "/stream")
    return {path: name for path in paths for found, name in heads(outcome, f" {path} ") if found == logger}


@of(stack for stack in STACKS if stack.has_access_lines_inside)
def test_the_access_lines_of_the_server_have_it(stack: Stack, asked: Asking) -> None:
    outcome = asked(stack)
    found = access_lines(stack, outcome)
    failed = "-" if stack.answers_500_itself else FAILED
    assert found == {"/fails": failed, "/refuses": REFUSED, "/stream": STREAMED}
    if stack.access_logger in (*SERVER_LOGGERS, "werkzeug"):
        assert ids_of_records(outcome, str(stack.access_logger), " /refuses ") == [REFUSED]


@of(stack for stack in STACKS if stack.access_logger is not None and not stack.has_access_lines_inside)
def test_the_access_lines_that_a_server_logs_when_all_is_over_have_none(stack: Stack, asked: Asking) -> None:
    found = access_lines(stack, asked(stack))
    assert found
    assert set(found.values()) == {"-"}
