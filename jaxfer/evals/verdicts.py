"""Verdicts: the conclusion that a method's paired scores allow, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from jaxfer.errors import InputError
from jaxfer.evals.intervals import Interval, digits, paired_interval, signed

SURE = 0.05  # p below which a finding stands
HELPS, NO_EVIDENCE, NEGATIVE = "helps", "no evidence", "negative transfer"

# Two methods' programs round float32 losses differently, so an effect of that size is none.
_ROUNDING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Verdict:
    """The comparison of a method with training from scratch.

    Attributes:
      method: its name.
      outcome: `helps`, `no evidence` or `negative transfer`.
      effect: 95 % interval of the gain over scratch; positive is better, for a minimised metric too.
      sentence: the same in words, in the metric's own sign.
      p: of the paired t test, two-sided: below 0.05 where its interval leaves 0 out; 1 where the pairs can't tell.
    """

    method: str
    outcome: str
    effect: Interval
    sentence: str
    p: float


def verdict(
    name: str,
    scores: Sequence[float],
    scratch: Sequence[float],
    *,
    metric: str,
    maximize: bool,
    pairs: str = "seeds",
    kind: str = "t",
    against: str = "scratch",
) -> Verdict:
    """`helps` if the paired 95 % interval lies above 0, `negative transfer` if below, else `no evidence`.

    One pair has no spread to judge by, nor have two of exactly equal differences: on a small test split the latter
    is a common coincidence (50 examples, no true effect: 11 % of draws), so both are `no evidence`.

    Args:
      name: the method's.
      scores: [n] the method's scores.
      scratch: [n] scratch's scores of the same seeds and splits, in the same order.
      metric: what the scores are, with their split (`test accuracy`).
      maximize: whether more of it is better.
      pairs: what the pairs are, plural.
      kind: of the interval, as in `paired_interval`.
      against: name of the model that `scratch` scores (a simple baseline's).

    Raises:
      InputError: as `paired_interval`.
    """
    effect = _gain(scores, scratch, maximize, pairs, kind, (name, against))
    sign = _sign(effect, [*scores, *scratch], len(scores))
    outcome = {1: HELPS, 0: NO_EVIDENCE, -1: NEGATIVE}[sign]
    opening = {1: f"{name} helps", 0: f"{name}: no evidence either way", -1: f"{name} shows negative transfer"}[sign]
    evidence = _evidence(effect, metric, maximize, against, len(scores), pairs)
    return Verdict(name, outcome, effect, f"{opening}: {evidence}.", _p_value(scores, scratch, sign))


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number: the i-th smallest of m counts m - i times, and none less than a smaller one.

    Holm, 1979, "A Simple Sequentially Rejective Multiple Test Procedure": where all those below 0.05 are believed, the
    chance that any of them is an accident is at most 0.05, however the tests depend on each other.

    Args:
      p: [m], any order.
    """
    adjusted, least = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = least
    return adjusted


@dataclass(frozen=True)
class LabelsSaved:
    """How many labels a class scratch needs to match a score.

    Attributes:
      needed: labels a class; `inf` where scratch never matches.
      low: the largest count below it that was run and does not match; 0 where the smallest one run matches already.
      high: the smallest count run that matches; `inf` where none does. `needed` is interpolated unless it is `high`.
      interval: 95 % bootstrap interval of `needed`; None: not known.
      seeds: that it is drawn from.
      counted: what the numbers count: labels `a class`, or `in all`.
    """

    needed: float
    low: float
    high: float
    interval: tuple[float, float] | None = None
    seeds: int = 0
    counted: str = "a class"

    def factor(self, at: float) -> float:
        """`needed` as a multiple of the method's own `at` labels a class, at least 1; `inf` where it is open."""
        return max(1.0, self.needed / at)

    def sentence(self, method: str, at: float) -> str:
        """The finding in words, for a method that had `at` labels per class."""
        if not at > 0:
            raise InputError(f"expected a positive number of labels, found {at}; give the method's own")
        opening = f"At {_count(at)} {'label' if at == 1 else 'labels'} {self.counted},"
        if math.isinf(self.needed):
            # Nothing is known if the method had more labels than any scratch run.
            times = f": more than {self.low / at:.1f} x the labels" if self.low >= at else ""
            return f"{opening} scratch needs more than {_count(self.low)} to match {method}{times}{self._spread()}."
        if self.needed <= at:
            none = f"{method} saves no labels: scratch matches it with {_count(at)} or fewer"
            return f"{opening} {none}{self._spread()}."
        times = f"{self.needed / at:.1f} x the labels"
        if self.needed < self.high:
            between = f"interpolated between {_count(self.low)} and {_count(self.high)}"
            needed = f"{self.needed:.{1 if self.needed < 10 else 0}f}"
            return f"{opening} scratch needs about {needed} to match {method} ({between}): {times}{self._spread()}."
        most = "at most " if not self.low else ""
        return f"{opening} scratch needs {most}{_count(self.needed)} to match {method}: {most}{times}{self._spread()}."

    def _spread(self) -> str:
        """The interval in words; nothing where all of it lies beyond the counts that were run."""
        if self.interval is None or math.isinf(self.interval[0]):
            return ""
        least, most = (f"{end:.{1 if end < 10 else 0}f}".removesuffix(".0") for end in self.interval)
        ends = f"from {least} up" if math.isinf(self.interval[1]) else f"{least} to {most}"
        return f"; 95 % interval {ends} (bootstrap over {self.seeds} seeds)"


def labels_saved(
    labels: Sequence[float], scratch: Sequence[float], method_score: float, *, maximize: bool = True
) -> LabelsSaved:
    """The smallest number of labels a class at which scratch reaches a method's score.

    Scratch's score is taken as linear in log(labels) between the counts that were run. Where its curve is not
    monotone, the first crossing counts: that is the cheapest way for scratch to have matched.

    Args:
      labels: [n] labels a class, increasing.
      scratch: [n] scratch's mean score at each.
      method_score: the method's mean score, on the same metric.
      maximize: whether more of it is better.

    Raises:
      InputError: counts that do not increase, unpaired scores, or a score that is not finite.
    """
    counts, curve = [float(count) for count in labels], [float(score) for score in scratch]
    if not counts or counts[0] <= 0 or any(b <= a for a, b in zip(counts, counts[1:], strict=False)):
        raise InputError(f"expected increasing positive label counts, found {list(labels)}; sort them")
    if len(counts) != len(curve):
        raise InputError(f"expected one scratch score per label count, found {len(curve)} for {len(counts)} counts")
    if not all(math.isfinite(score) for score in (*curve, method_score)):
        raise InputError(f"expected finite scores, found scratch {curve} and {method_score}; rerun what diverged")
    slack = _ROUNDING * max(abs(score) for score in (*curve, method_score))
    gaps = [(score - method_score) * (1 if maximize else -1) for score in curve]
    first = next((i for i, gap in enumerate(gaps) if gap >= -slack), None)
    if first is None:
        return LabelsSaved(math.inf, counts[-1], math.inf)
    if first == 0:
        return LabelsSaved(counts[0], 0.0, counts[0])
    low, high = counts[first - 1], counts[first]
    if gaps[first] <= slack:  # matched by a count that was run
        return LabelsSaved(high, low, high)
    share = gaps[first - 1] / (gaps[first - 1] - gaps[first])
    return LabelsSaved(low * (high / low) ** share, low, high)


def labels_saved_by_seed(
    labels: Sequence[float],
    scratch: Sequence[Sequence[float]],
    method: Sequence[float],
    *,
    maximize: bool = True,
    counted: str = "a class",
    draws: int = 2000,
) -> LabelsSaved:
    """`labels_saved` of the means over seeds, with a percentile interval (Efron and Tibshirani, 1993, chapter 13).

    A draw takes seeds with replacement, the same ones of scratch at every count and of the method, which saw the same
    labels. There is no interval of fewer than three seeds.

    Args:
      labels: [n] as of `labels_saved`.
      scratch: [n][seeds] its scores.
      method: [seeds] the method's.
      maximize: whether more of it is better.
      counted: what `labels` counts.
      draws: number of them; they depend on nothing but the number of seeds.

    Raises:
      InputError: as `labels_saved`, or scores of unequal numbers of seeds.
    """
    curves, scores = np.asarray([list(row) for row in scratch], np.float64), np.asarray(method, np.float64)
    if curves.ndim != 2 or curves.shape[1] != len(scores):
        raise InputError(f"expected scores of the same seeds, found {len(scores)} and {[len(row) for row in scratch]}")
    found, seeds = labels_saved(labels, curves.mean(1).tolist(), float(scores.mean()), maximize=maximize), len(scores)
    found = replace(found, seeds=seeds, counted=counted)
    if seeds < 3:
        return found
    drawn = np.random.default_rng(0).integers(0, seeds, (draws, seeds))
    needed = [
        labels_saved(labels, curves[:, rows].mean(1).tolist(), float(scores[rows].mean()), maximize=maximize).needed
        for rows in drawn
    ]
    low, high = np.quantile(needed, (0.025, 0.975), method="inverted_cdf")  # no mean of a number and infinity
    return replace(found, interval=(float(low), float(high)))


def _gain(scores, reference, maximize: bool, pairs: str, kind: str, names: tuple[str, str]) -> Interval:
    """The paired interval with positive as better."""
    effect = paired_interval(scores, reference, kind=kind, pairs=pairs, names=names)
    return effect if maximize else _flipped(effect)


def _flipped(effect: Interval) -> Interval:
    return replace(effect, mean=0.0 - effect.mean, low=0.0 - effect.high, high=0.0 - effect.low)


def _sign(effect: Interval, scores: Sequence[float], n: int) -> int:
    """1 where the interval lies above 0, -1 below, 0 where it holds 0 or can't tell."""
    rounding = _ROUNDING * max(abs(float(score)) for score in scores)
    if n == 2 and effect.low == effect.high:
        return 0
    return int(effect.low > rounding) - int(effect.high < -rounding)


def _p_value(scores: Sequence[float], scratch: Sequence[float], sign: int) -> float:
    differences = np.subtract(scores, scratch, dtype=np.float64)
    spread = float(np.ptp(differences))
    if len(differences) < 2 or spread <= _ROUNDING * float(np.abs([scores, scratch]).max()):
        return float(sign == 0)  # without spread they tell everything or nothing
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _evidence(effect: Interval, metric: str, maximize: bool, over: str, n: int, pairs: str) -> str:
    """`test accuracy +0.041 over scratch, 95 % interval [+0.012, +0.070] (paired t over 5 seeds)`."""
    shown = effect if maximize else _flipped(effect)  # the metric's own sign, as in the tables
    places = digits(shown.low, shown.high)
    direction = "" if maximize else " (lower is better)"
    gain = f"{metric} {signed(shown.mean, places)} {'over' if shown.mean >= 0 else 'against'} {over}{direction}"
    one = pairs.removesuffix("s")
    if n == 1:
        return f"{gain}, but one {one} can't tell"
    if n == 2 and effect.low == effect.high != 0:
        return f"{gain} for both {pairs}, and two without spread can't tell"
    interval = f"[{signed(shown.low, places)}, {signed(shown.high, places)}]"
    return f"{gain}, 95 % interval {interval} ({effect.name})"


def _count(labels: float) -> str:
    return f"{labels:g}"
