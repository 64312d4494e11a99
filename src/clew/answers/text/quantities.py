"""Durations, rates, shares and times as people read them."""

from __future__ import annotations

import math
from datetime import datetime


def duration(seconds: float) -> str:
    """Write a duration with three digits and the unit that suits it."""
    if not math.isfinite(seconds):
        return "–"
    if seconds <= 0:
        return "0 s"
    if seconds >= 1e12:
        return f"{seconds:.2e} s"
    if seconds < 99.5:
        unit, factor = ("s", 1.0) if seconds >= 0.9995 else ("ms", 1e3) if seconds >= 0.9995e-3 else ("µs", 1e6)
        value = seconds * factor
        return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def rate(rate: float | None) -> str:
    """Write a rate, given in calls a second, with the unit that suits it."""
    if not rate:
        return "–" if rate is None else "0/s"
    if rate >= 0.095:
        return f"{rate:,.1f}/s" if rate < 100 else f"{rate:,.0f}/s"
    return f"{rate * 60:.1f}/min" if rate * 60 >= 0.095 else f"{rate * 3600:.1f}/h"


def percent(share: float) -> str:
    """Write a share as per cent."""
    return f"{share * 100:.1f} %" if share < 0.0995 else f"{share * 100:.0f} %"


def local_time(moment: int, today: int) -> str:
    """Write a time in the local zone, with the date unless it is the day of `today`."""
    local = datetime.fromtimestamp(moment / 1e9).astimezone()
    same = today and local.date() == datetime.fromtimestamp(today / 1e9).astimezone().date()
    return local.strftime("%H:%M:%S" if same else "%Y-%m-%d %H:%M:%S")


def age(moment: int) -> str:
    """Write how long ago a time was."""
    seconds = max(datetime.now().timestamp() - moment / 1e9, 0.0)
    for most, unit, factor in ((100, "s", 1), (6000, "min", 60), (172800, "h", 3600)):
        if seconds < most:
            return f"{round(seconds / factor)} {unit} ago"
    return f"{round(seconds / 86400)} d ago"
