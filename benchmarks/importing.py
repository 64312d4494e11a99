"""How long importing takes: fresh interpreters in pairs, one with and one without `import clew`."""

from __future__ import annotations

import random
from typing import Any

from benchmarks import child
from benchmarks.statistics import spread

_TIMED = """
from time import process_time_ns
started = process_time_ns()
{statements}
print((process_time_ns() - started) / 1e6)
"""

SDK = "import opentelemetry.sdk.metrics"
BOTH = "import opentelemetry.sdk.metrics; import clew"


def milliseconds(statements: str) -> float:
    """Return how long a fresh interpreter takes for `statements`, its own start not included: of processor time."""
    return float(child.run("-c", _TIMED.format(statements=statements)))


def measure_imports(pairs: int, order: random.Random) -> dict[str, Any]:
    """Return milliseconds: of the SDK alone, of both, and of the differences within pairs."""
    for statements in (SDK, BOTH):  # writes the byte code
        milliseconds(statements)
    alone: list[float] = []
    both: list[float] = []
    for _ in range(pairs):
        pair = [(SDK, alone), (BOTH, both)]
        order.shuffle(pair)
        for statements, found in pair:
            found.append(milliseconds(statements))
    return {
        "pairs": pairs,
        "sdk": spread(alone).as_json(),
        "sdk_and_clew": spread(both).as_json(),
        "difference": spread([more - less for more, less in zip(both, alone, strict=True)]).as_json(),
    }
