"""Whether a classifier's confidence on val can be trusted: reliability, ECE, Brier score, risk against coverage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxfer.reports import charts, grids, numbers
from jaxfer.reports.charts import Band
from jaxfer.reports.page import Part, Section
from jaxfer.reports.tables import Cell, score, whole
from jaxfer.tasks._probabilities import of_logits
from jaxfer.training.calibrating import temperature

BINS = 15
POINTS = 100  # of the risk-coverage curve

Bins = Sequence[tuple[float, float, int]]  # mean confidence, accuracy, examples of each


def equal_mass(confidence: np.ndarray, right: np.ndarray, count: int = BINS) -> Bins:
    """Of as many examples each as the others, or one more; of fewer examples than bins one each."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), count)
    return _told(confidence, right, parts)


def equal_width(confidence: np.ndarray, right: np.ndarray, count: int = BINS) -> Bins:
    """Of (0, 1/count] to ((count - 1)/count, 1], those that have examples; as the metric `ece` has them."""
    place = np.clip(np.ceil(confidence * count) - 1, 0, count - 1)
    return _told(confidence, right, [np.flatnonzero(place == i) for i in range(count)])


def _told(confidence: np.ndarray, right: np.ndarray, parts: Sequence[np.ndarray]) -> Bins:
    return [(float(confidence[p].mean()), float(right[p].mean()), len(p)) for p in parts if len(p)]


def error(found: Bins) -> float:
    """The expected calibration error of bins: their gaps, weighted by their examples."""
    total = sum(count for *_, count in found)
    return sum(count * abs(accuracy - sure) for sure, accuracy, count in found) / total


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Squared distance from the one-hot label, summed over classes: 0 to 2."""
    hot = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - hot) ** 2).sum(1).mean())


def risk(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, share of mistakes among the most confident ones of that share)."""
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    return kept / len(order), np.cumsum(~right[order]) / kept


def section(probabilities: np.ndarray, labels: np.ndarray, unit: str = "examples") -> Section:
    """The calibration of val's predictions, each of one of its units."""
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
    gap = float(confidence.mean() - right.mean())
    how = "overconfident" if gap > 0 else "underconfident"
    sure, accuracy = numbers.score(float(confidence.mean())), numbers.score(float(right.mean()))
    title = f"On val it is {how} by {numbers.score(abs(gap))}: {sure} sure, {accuracy} right"
    return Section(
        name="Calibration",
        title=title,
        parts=[
            _reliability(confidence, right, brier(probabilities, labels), _scaled(probabilities, labels), unit),
            _risk(confidence, right, unit),
        ],
    )


def _scaled(probabilities: np.ndarray, labels: np.ndarray) -> str:
    """What temperature scaling would change; nothing where no temperature is best."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float64).tiny))
    best = temperature(logits, labels)
    if best is None:
        return ""
    ece = of_logits(logits / best, labels)["ece"]
    return f" With outputs divided by {best:.3g}, which fits val best, that is {numbers.score(ece)}."


def _reliability(confidence: np.ndarray, right: np.ndarray, brier: float, scaled: str, unit: str) -> Part:
    found, wide = equal_mass(confidence, right), equal_width(confidence, right)
    title = f"ECE {numbers.score(error(found))}, Brier score {numbers.score(brier)}"
    about = (
        f"{len(found)} bins of as many {unit} each; of {BINS} bins of equal width, as the metric ece has them, it is "
        f"{numbers.score(error(wide))}.{scaled} Dashed: accuracy is confidence. Bars are gaps."
    )
    drawn = grids.reliability("reliability", title, found)
    rows = [[Cell(c, numbers.score(c)), Cell(a, numbers.score(a)), whole(count)] for c, a, count in found]
    return charts.figure("reliability", title, about, drawn, ("mean confidence", "accuracy", unit), rows)


def _risk(confidence: np.ndarray, right: np.ndarray, unit: str) -> Part:
    coverage, wrong = risk(confidence, right)
    chosen = np.unique(np.linspace(0, len(coverage) - 1, min(POINTS, len(coverage))).round().astype(int))
    x, y = [[float(v) for v in values[chosen]] for values in (coverage, wrong)]
    half = float(wrong[max((len(wrong) + 1) // 2 - 1, 0)])
    title = f"The more confident half has {numbers.percent(half)} mistakes, all {numbers.percent(float(wrong[-1]))}"
    about = f"Risk against coverage: the share of mistakes among the most confident {unit}."
    bands = {"risk": Band(2, x, y, y, y)}
    drawn = charts.lines("risk", title, bands, x_name="coverage", y_name="share of mistakes", marks=False)
    rows = [[score(a), score(b)] for a, b in zip(x, y, strict=True)]
    return charts.figure("risk", title, about, drawn, ("coverage", "share of mistakes"), rows)
