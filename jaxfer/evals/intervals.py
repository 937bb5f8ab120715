"""Intervals: what a handful of seeds can say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """(mean, half-width) of Student's t interval for the mean of independent draws; NaN half-width for one draw."""
    array = np.asarray(values, np.float64)
    if array.size < 2:
        return float(array.mean()), math.nan
    half = stats.t.ppf((1 + level) / 2, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size)
    return float(array.mean()), float(half)
