"""Paired intervals: by hand, against a plain reference, and whether they cover as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.evals.intervals import MIN_BOOTSTRAP_PAIRS, Interval, gain, mean_interval, paired_interval, too_few


def test_paired_t_by_hand():
    """Differences 0.03, 0.04, 0.02: mean 0.03, standard deviation 0.01, t(0.975, 2) = 4.302653."""
    found = paired_interval([0.93, 0.95, 0.94], [0.90, 0.91, 0.92])
    half = 4.302652729911275 * 0.01 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((0.03, 0.03 - half, 0.03 + half), rel=1e-9)
    assert found.name == "paired t over 3 seeds"
    narrow = paired_interval([0.93, 0.95, 0.94], [0.90, 0.91, 0.92], level=0.5)  # t(0.75, 2) = 1 / sqrt(1.5)
    assert narrow.high - narrow.mean == pytest.approx(0.01 / math.sqrt(3) / math.sqrt(1.5), rel=1e-9)


def test_an_end_that_is_not_0_does_not_read_as_0():
    assert gain(0.0193, -0.0002, 0.0388) == "+0.0193 [-0.0002, +0.0388]"
    assert gain(0.02, 0.01, 0.03) == "+0.020 [+0.010, +0.030]" and gain(-1e-9, 0.0, 0.01) == "+0.000 [+0.000, +0.010]"


def test_two_draws_are_too_few():
    """t(0.975, 1) / sqrt(2) = 12.706 / 1.414 = 8.98; t(0.975, 4) / sqrt(5) = 2.776 / 2.236 = 1.24."""
    line = "seeds=2, too few: a 95 % interval is ± 9.0 standard deviations, ± 1.2 with 5"
    assert [too_few(n, f"seeds={n}") for n in (1, 2, 3, 5)] == ["", line, "", ""]


def test_the_pairs_cancel_what_they_share():
    seeds = np.array([0.2, 0.9, 0.5, 0.7])
    alone = paired_interval([0.1, 0.2, 0.3, 0.2], [0.0] * 4)
    shared = paired_interval(seeds + [0.1, 0.2, 0.3, 0.2], seeds)
    assert (shared.low, shared.high) == pytest.approx((alone.low, alone.high), rel=1e-9)


def test_equal_differences_have_no_width_and_one_pair_no_bounds():
    # In floating point 0.9 - 0.8 is not 0.8 - 0.7.
    found = paired_interval([0.9, 0.8], [0.8, 0.7])
    assert found.low == found.mean == found.high == pytest.approx(0.1)
    found = paired_interval([0.9] * 20, [0.8] * 20, kind="bootstrap")
    assert found.low == found.mean == found.high == pytest.approx(0.1)
    assert paired_interval([0.75], [0.5]) == Interval(0.25, -math.inf, math.inf, "paired t over 1 seed")


def test_bootstrap_against_a_plain_reference():
    """Studentized: of 1,999 resamples' t statistics in order, the 50th from each end; skewed, so not symmetric."""
    differences = np.random.default_rng(1).exponential(1, 25)
    found = paired_interval(differences + 3, np.full(25, 3.0), kind="bootstrap", pairs="splits")
    rows = np.random.default_rng(0).integers(25, size=(1999, 25))
    draws = [[differences[i] for i in row] for row in rows]
    statistics = sorted((np.mean(d) - differences.mean()) / (np.std(d, ddof=1) / 5) for d in draws)
    error = differences.std(ddof=1) / 5
    expected = [differences.mean() - statistics[1949] * error, differences.mean() - statistics[49] * error]
    assert [found.low, found.high] == pytest.approx(expected, rel=1e-9)
    assert found.name == "paired bootstrap over 25 splits"
    assert found.high - found.mean > 1.2 * (found.mean - found.low)


def test_bootstrap_where_resamples_have_no_spread():
    """One in twenty differs: of the resamples without it, more than 2.5 %, the statistic is infinite."""
    found = paired_interval([0.5] + [0.0] * 19, [0.0] * 20, kind="bootstrap")
    assert found.mean == pytest.approx(0.025) and found.high == math.inf and math.isfinite(found.low)
    # Where that one value is the mean itself, it speaks for the mean.
    found = paired_interval([1.0, -1.0] + [0.0] * 38, [0.0] * 40, kind="bootstrap")
    assert math.isfinite(found.low) and math.isfinite(found.high) and found.low < 0 < found.high


def covered(draws: np.ndarray, truth: float, **options) -> int:
    """In how many of the rows the interval, of paired scores with a common part, holds the truth."""
    common = np.random.default_rng(9).normal(0.5, 0.2, draws.shape)
    found = [paired_interval(c + d, c, **options) for c, d in zip(common, draws, strict=True)]
    return sum(interval.low <= truth <= interval.high for interval in found)


def test_intervals_cover():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.01, 0.02, (1000, 5))
    found = [mean_interval(draw) for draw in draws]
    assert 920 <= sum(abs(mean - 0.01) <= half for mean, half in found) <= 980
    assert 920 <= covered(draws, 0.01) <= 980
    # Accuracies on 500 examples come in steps of 0.002.
    assert 920 <= covered(np.round(rng.normal(0.01, 0.02, (1000, 3)) * 500) / 500, 0.01) <= 980


@pytest.mark.parametrize("shape", ["normal", "exponential"])
def test_bootstrap_covers_from_its_smallest_number_of_pairs(shape):
    draws = getattr(np.random.default_rng(0), shape)(size=(1000, MIN_BOOTSTRAP_PAIRS))
    assert 920 <= covered(draws, {"normal": 0.0, "exponential": 1.0}[shape], kind="bootstrap") <= 980


@pytest.mark.parametrize(
    "ours, theirs, options, message",
    [
        ([0.1, 0.2], [0.1], {}, r"found 2 \(ours\) and 1 \(theirs\); run both on the same seeds"),
        ([], [], {}, "found 0"),
        ([0.1, math.nan], [0.1, 0.2], {}, r"found nan for ours \(number 2 of the 2 seeds\)"),
        ([0.1], [math.inf], {"names": ("full", "scratch")}, "found inf for scratch"),
        ([0.1] * 19, [0.1] * 19, {"kind": "bootstrap"}, "at least 20 seeds for a bootstrap, found 19; use kind='t'"),
        ([0.1], [0.1], {"kind": "bootstrp"}, "unknown kind of interval 'bootstrp'; nearest: 'bootstrap'"),
        ([0.1], [0.1], {"level": 95}, "expected a level between 0 and 1, found 95"),
    ],
)
def test_what_is_refused(ours, theirs, options, message):
    with pytest.raises(InputError, match=message):
        paired_interval(ours, theirs, **options)
