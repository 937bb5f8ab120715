"""What settings explain of scores, and where they lie on axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfer.reports import numbers, svg
from jaxfer.reports.grids import Axis

LEVELS = 6  # values of a field up to which each is one; more are cut into as many parts of equal size


def explained(settings: Sequence[Sequence[Any]], scores: Sequence[float], fields: Sequence[str]) -> dict[str, float]:
    """{field: share of the variance of the scores between its values}: epsilon squared of a one-way analysis.

    (SS_between - (k - 1) MS_within) / SS_total, at least 0: unlike eta squared, it is 0 on average for a field of k
    values that does not matter (Kelley, 1935). Fields that change together share what they explain.

    Args:
      settings: [runs][fields].
      scores: [runs].
      fields: names.
    """
    y = np.asarray(scores, np.float64)
    total, n, found = float(((y - y.mean()) ** 2).sum()), len(y), {}
    for i, name in enumerate(fields):
        levels = _levels([row[i] for row in settings])
        groups = [y[[level == own for own in levels]] for level in dict.fromkeys(levels)]
        between = sum(len(g) * (g.mean() - y.mean()) ** 2 for g in groups)
        k = len(groups)
        within = (total - between) / (n - k) if n > k else 0.0
        found[name] = float(max((between - (k - 1) * within) / total, 0.0)) if total and n > k else 0.0
    return found


def _levels(values: Sequence[Any]) -> list[Any]:
    """A value's group: itself, or of many numbers its part of six."""
    shown = [numbers.plain(v) if numbers.known(v) else str(v) for v in values]
    if len(set(shown)) <= LEVELS or not all(map(numbers.known, values)):
        return shown
    edges = np.quantile(np.asarray(values, np.float64), np.linspace(0, 1, LEVELS + 1)[1:-1])
    return [int(np.searchsorted(edges, v, side="right")) for v in values]


def axis(name: str, values: Sequence[Any]) -> Axis:
    """An axis of parallel coordinates: numbers by size, logarithmic where they span a factor of ten, else names."""
    if all(map(numbers.known, values)):
        low, high = min(values), max(values)
        log = low > 0 and high / low >= 10
        scale = svg.Scale(low=low, high=high if high > low else low + 1, begin=0.0, end=1000.0, log=log)
        marks = dict.fromkeys(values) if len(set(values)) <= LEVELS else [low, *scale.ticks(4), high]
        ticks = [(scale(v) / 1000, numbers.plain(v) if v < 1e4 else numbers.compact(v)) for v in marks]
        kept = [tick for i, tick in enumerate(ticks) if all(abs(tick[0] - other[0]) > 0.05 for other in ticks[:i])]
        return Axis(name, [scale(v) / 1000 for v in values], kept)
    names = list(dict.fromkeys(map(str, values)))
    place = {value: (i + 0.5) / len(names) for i, value in enumerate(names)}
    return Axis(name, [place[str(v)] for v in values], [(at, svg.shortened(v, 16)) for v, at in place.items()][:20])
