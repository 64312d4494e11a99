"""The costs as one SVG, drawn by hand: bars on a logarithmic scale, with quartiles."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

COLOURS = {
    "by hand": "#6b7280",
    "clew": "#0f766e",
    "OpenTelemetry SDK by hand": "#b45309",
    "prometheus_client": "#be123c",
    "autometrics": "#7c3aed",
    "spans": "#1d4ed8",
}

_LEFT, _WIDTH, _BAR, _TOP, _RIGHT = 480, 520, 22, 74, 90
_LEAST = 10.0
_SHORT = {"by hand": "", "OpenTelemetry SDK by hand": "SDK by hand: ", "spans": ""}


def svg(contest: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Draw the costs of a contest, in the order of its table.

    Args:
        contest: The entries of ``contest`` in the JSON output.
        machine: Its ``machine``.
    """
    shown = [one for one in contest if one["emits"]]
    most = 10 ** math.ceil(math.log10(max(one["cost_ns"]["high"] for one in shown)))

    def across(cost: float) -> float:
        share = math.log10(max(cost, _LEAST) / _LEAST) / math.log10(most / _LEAST)
        return _LEFT + share * _WIDTH

    height = _TOP + _BAR * len(shown) + 44
    bottom = _TOP + _BAR * len(shown)
    width = _LEFT + _WIDTH + _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img" '
        'aria-label="Cost of one measured call in nanoseconds, logarithmic">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="26" font-size="16" fill="#111827">What one measured call costs over the bare call</text>',
        f'<text x="16" y="46" fill="#4b5563">nanoseconds, logarithmic; lines show the quartiles; '
        f"{escape(machine['implementation'])} {escape(machine['python'])}, {escape(machine['processor'])}, "
        f"recorder: {escape(machine['recorder'])}</text>",
    ]
    tick = _LEAST
    while tick <= most:
        x = across(tick)
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#e5e7eb"/>'
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#4b5563">{tick:,.0f}</text>'
        )
        tick *= 10
    for number, one in enumerate(shown):
        parts.append(_bar(one, _TOP + number * _BAR, across))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _bar(one: dict[str, Any], y: int, across: Any) -> str:
    cost = one["cost_ns"]
    middle = y + _BAR / 2 - 2
    end = across(cost["median"])
    group = _SHORT.get(one["group"], f"{one['group']}: ")
    return (
        f'<text x="{_LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end" fill="#111827">'
        f"{escape(group + one['label'])}</text>"
        f'<rect x="{_LEFT}" y="{y}" width="{max(1.0, end - _LEFT):.1f}" height="{_BAR - 5}" '
        f'fill="{COLOURS.get(one["group"], "#6b7280")}"/>'
        f'<line x1="{across(cost["low"]):.1f}" y1="{middle:.1f}" x2="{across(cost["high"]):.1f}" y2="{middle:.1f}" '
        'stroke="#111827" stroke-width="1.5"/>'
        f'<text x="{max(end, across(cost["high"])) + 6:.1f}" y="{middle + 4:.1f}" fill="#111827">'
        f"{cost['median']:,.0f}</text>"
    )
