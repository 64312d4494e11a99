"""logfire's `@instrument`: a span for each call."""

from __future__ import annotations

import logfire

from benchmarks.contestant import Contestant
from benchmarks.contestants.hand_written import bare
from benchmarks.contestants.opentelemetry_sdk import SPANS, CountingSpans


def contestants() -> list[Contestant]:
    spans = CountingSpans()
    own = logfire.configure(
        local=True,
        send_to_logfire=False,
        console=False,
        metrics=False,
        inspect_arguments=False,
        distributed_tracing=False,
        additional_span_processors=[spans],
    )
    return [
        Contestant(
            "logfire",
            "logfire @instrument, nothing exported",
            SPANS,
            own.instrument("checkout", extract_args=False)(bare),
            "span",
            spans.recorded,
        )
    ]
