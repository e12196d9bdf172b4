"""Numbers as the report page writes them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "DASH",
    "format_duration",
    "format_gap",
    "format_interval",
    "format_name",
    "format_number",
    "format_p_value",
    "format_percent",
    "format_signed",
    "join_list",
    "timing_view",
]

DASH = "–"


def format_number(value: float, digits: int = 3) -> str:
    """A number, or a dash where it is not finite."""
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else DASH


def format_signed(value: float, digits: int = 2) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−") if math.isfinite(value) else DASH


def format_gap(value: float) -> str:
    """A difference with its sign."""
    return format_signed(value, 3)


def format_interval(low: float | None, high: float | None, shown: Any) -> str:
    """``[low, high]``, nothing where there is none; ``shown`` writes a number."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{shown(low)}, {shown(high)}]"


def format_p_value(p_value: float | None) -> str:
    """A p-value as text ("p 0.03", "p < 0.001"), or nothing where the test does not apply."""
    return "" if p_value is None else "p < 0.001" if p_value < 0.001 else f"p {p_value:.2g}"


def format_percent(fraction: float) -> str:
    """Tenths below ten per cent, and a true minus sign, never a minus zero."""
    percent = round(100 * fraction, 1 if 0 < fraction < 0.1 else 0) or 0.0
    return f"{percent:.{1 if 0 < percent < 10 else 0}f} %".replace("-", "−")


def format_name(name: str) -> str:
    """A name without underscores."""
    return name.replace("_", " ")


def join_list(parts: Sequence[str]) -> str:
    """Parts of a list in one line."""
    return "; ".join(parts)


def format_duration(seconds: float) -> str:
    """Seconds, minutes and seconds, or hours and minutes."""
    if not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def timing_view(timings: Mapping[str, float]) -> dict[str, Any]:
    """Stages with their time and its fraction of the longest."""
    finite = [seconds for seconds in timings.values() if math.isfinite(seconds)]
    longest = max(finite, default=0.0) or 1.0
    rows = [
        {
            "stage": stage,
            "time": format_duration(seconds),
            "fraction": round(100 * seconds / longest, 1) if finite else 0.0,
        }
        for stage, seconds in timings.items()
    ]
    return {"rows": rows, "total": format_duration(sum(finite))}
