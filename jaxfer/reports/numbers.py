"""Numbers as a report writes them: one way for each kind of number, `–` for those that are not there."""

from __future__ import annotations

import math
from typing import Any

from jaxfer.evals import intervals

NONE = "–"


def known(value: Any) -> bool:
    """Whether this is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def score(value: Any, digits: int = 3) -> str:
    """`0.864`."""
    return f"{value:.{digits}f}" if known(value) else NONE


def signed(value: Any, digits: int = 3) -> str:
    """`+0.223`."""
    return intervals.signed(value, digits).replace("-", "−") if known(value) else NONE


def gain(mean: Any, low: Any, high: Any) -> str:
    """`+0.0190 [−0.0002, +0.0382]`."""
    if all(map(known, (mean, low, high))):
        return intervals.gain(mean, low, high).replace("-", "−")
    return f"{signed(mean)} [{signed(low)}, {signed(high)}]"


def percent(share: Any) -> str:
    """`3.2 %`, `64 %`."""
    if not known(share):
        return NONE
    return f"{100 * share:.2g} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def whole(value: Any) -> str:
    """`77,754`."""
    return f"{value:,.0f}" if known(value) else NONE


def compact(value: Any) -> str:
    """`77.8 k`, for axes and narrow tables."""
    if not known(value):
        return NONE
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def seconds(value: Any) -> str:
    """`0.7 s`, `3 min 20 s`, `2 h 05 min`."""
    if not known(value):
        return NONE
    if value < 60:
        return f"{value:.2g} s" if value < 1 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(value: Any) -> str:
    """`1.5 MiB` of a number of bytes."""
    if not known(value):
        return NONE
    for unit, letter in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= unit:
            return f"{value / unit:.3g} {letter}"
    return f"{value:.0f} B"


def plain(value: Any) -> str:
    """A number of any size in few digits: `0.001`, `3e-05`, `12,345`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return NONE if value is None else str(value)
    return whole(value) if isinstance(value, int) else f"{value:.4g}" if known(value) else NONE


def full(value: Any) -> str:
    """As a CSV has it: all digits; nothing for what is not there."""
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else str(value)
