"""Numbers and texts for people: times, sizes, and what a spreadsheet may be given."""

from __future__ import annotations

from typing import Any


def duration(seconds: float) -> str:
    """A time in seconds, in words."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """A number of bytes, in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def percent(share: float | None) -> str:
    """A share as people read it; never rounded up to 100 %."""
    if share is None:
        return ""
    if 0.999 <= share < 0.999999:
        return "99.9 %"
    return f"{100 * share:.1f} %"


def for_spreadsheet(value: Any) -> Any:
    """``value``, and a text so that no spreadsheet takes it for a formula: names come from files."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
