"""Numbers and texts for people: times, sizes, shares, and what a spreadsheet may be given."""

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


def of_size(done: float, total: float) -> str:
    """How much of a number of bytes is done, in MB or GB."""
    unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
    return f"{done / unit:.1f} of {total / unit:.1f} {name}"


def percent(share: float | None) -> str:
    """A share as people read it; never rounded up to 100 %."""
    if share is None:
        return ""
    if 0.999 <= share < 0.999999:
        return "99.9 %"
    return f"{100 * share:.1f} %"


def kept(share: float | None, unmeasured: int) -> str:
    """The share of an update that was kept, for a table.

    Args:
        share: the share of all whose size is known; None where nothing can be said.
        unmeasured: the number of losses whose size is not known; where there are any, the share is at most this.
    """
    if share is None:
        return "not known" if unmeasured else ""
    return f"at most {percent(share)}" if unmeasured else percent(share)


def rounded(value: float | None) -> float | None:
    """Six significant digits: more is noise of the machine, and would make equal reports differ."""
    return value if value is None or isinstance(value, int) else float(f"{value:.6g}")


def for_spreadsheet(value: Any) -> Any:
    """``value``, and a text so that no spreadsheet takes it for a formula: names come from files."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
