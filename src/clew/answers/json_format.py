"""Answers as machines read them: one JSON object, as ``--format json`` prints it."""

from __future__ import annotations

import json
import math
from typing import Any


def as_text(answer: dict[str, Any]) -> str:
    """Return an answer's `as_json` as JSON text, with null for every number that JSON cannot write."""
    return json.dumps(_finite(answer), ensure_ascii=True, allow_nan=False, indent=2) + "\n"


def _finite(value: Any) -> Any:
    """Return a value with None for numbers that are not finite: senders may send any."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and not math.isfinite(value) else value
