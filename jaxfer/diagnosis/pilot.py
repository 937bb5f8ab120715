"""A pilot: logistic regression on the vectors, beside the largest class and the raw inputs, and what more labels add.

Out of sample within the training split, in five folds. The learning curve fits err(n) = a n^-b + c (Hestness et al.,
2017, "Deep Learning Scaling is Predictable, Empirically", arXiv:1712.00409) to an eighth, a quarter, a half and all of
the training part of each fold; it says what twice as many examples may give, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import nnls

from jaxfer.diagnosis.finding import LISTED, NOTE, WARNING, Example, Finding, percent
from jaxfer.diagnosis.opened import Opened
from jaxfer.diagnosis.vectors import FEW_PENALTIES, FOLDS, SEED, chances, folds
from jaxfer.evals.intervals import mean_interval, paired_interval

MOST = 1024  # examples
PARTS = (1 / 8, 1 / 4, 1 / 2)  # besides all of them
POWERS = np.linspace(0.05, 2.0, 40)  # of b
LEAST = 40  # of each class to fit: from fewer there is no curve
WORSE = -0.02  # of accuracy, features less raw inputs


def extrapolated(counts: Sequence[int], errors: Sequence[float], to: int) -> float:
    """The error at `to` examples by a n^-b + c, with a and c not negative, fitted by least squares."""
    n, fits = np.asarray(counts, np.float64), []
    for power in POWERS:
        (a, c), residual = nnls(np.stack([n**-power, np.ones_like(n)], 1), np.asarray(errors, np.float64))
        fits.append((residual, a * to**-power + c))
    return float(min(fits)[1])


def check(opened: Opened, x: np.ndarray, labels: np.ndarray, names: Sequence[str], reads: str) -> Iterator[Finding]:
    """A note, and a warning where the raw inputs do better than frozen features of them.

    Args:
      opened: its train are the examples.
      x: their vectors, or texts.
      labels: int [n], each class five times or more.
      names: of the classes.
      reads: what they are.
    """
    rows = np.random.default_rng(SEED).permutation(len(labels))[:MOST]
    rows = rows[np.bincount(labels[rows])[labels[rows]] >= FOLDS]
    if len(np.unique(labels[rows])) < 2:
        return
    kept, labels = np.unique(labels[rows], return_inverse=True)
    split, x, names = opened.splits["train"].take(rows), x[rows], [names[c] for c in kept]
    told, largest = _told(x, labels), np.bincount(labels).max() / len(labels)
    right = _by_fold(told, labels)
    labelled, least = len(folds(labels)[0][0]), np.bincount(labels).min() * (1 - 1 / FOLDS)
    mean, half = mean_interval(right)
    says = f"Logistic regression on {reads} has {100 * mean:.1f} ± {100 * half:.1f} % accuracy from {labelled:,} "
    says += f"labels, out of sample; the largest class is {100 * largest:.1f} %"
    fix = "a transfer has to beat these; `jaxfer compare` says whether it does"
    (encoding, *others) = opened.encodings
    worse, better, best = None, np.zeros(0, int), largest
    if not others and reads != f"the raw {encoding.features}":
        told_raw = _told(encoding.flat(split), labels)
        raw, better = _by_fold(told_raw, labels), rows[told_raw & ~told]
        best = max(best, float(raw.mean()))
        says += f", and on the raw {encoding.features} it has {100 * raw.mean():.1f} %"
        worse = paired_interval(right, raw, pairs="folds")
    if least >= LEAST:
        counts = [*(len(folds(labels, part)[0][0]) for part in PARTS), labelled]
        curve = [*(_by_fold(_told(x, labels, part), labels) for part in PARTS), right]
        then = [1 - extrapolated(counts, 1 - np.array(of), 2 * labelled) for of in zip(*curve, strict=True)]
        more, spread = mean_interval(100 * (np.array(then) - right))
        says += f". By its learning curve, twice as many labels add {more:.1f} ± {spread:.1f} points"
    yield Finding(
        severity=NOTE,
        kind="pilot",
        message=f"{says}.",
        fix=fix,
        value=mean,
        threshold=best,
        examples=_hardest(told, labels, names),
    )
    if worse is not None and worse.mean <= WORSE and worse.high < 0:
        yield Finding(
            severity=WARNING,
            kind="worse_than_inputs",
            message=f"{reads[0].upper()}{reads[1:]} say less of the classes than the raw {encoding.features}: accuracy "
            f"{worse.mean:+.3f} [{worse.low:+.3f}, {worse.high:+.3f}], paired over {FOLDS} folds.",
            fix="rank other checkpoints (`jaxfer rank`), fine-tune rather than probe, and compare with scratch",
            value=worse.mean,
            threshold=WORSE,
            examples=opened.some("train", np.sort(better), lambda i: f"told by the raw {encoding.features} alone"),
        )


def _told(x: np.ndarray, labels: np.ndarray, part: float = 1.0) -> np.ndarray:
    """bool [n], of each example whether the folds without it are right."""
    return chances(x, labels, part, FEW_PENALTIES).argmax(1) == labels


def _by_fold(told: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Accuracy of each fold."""
    return np.array([told[held].mean() for _, held in folds(labels)])


def _hardest(told: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> tuple[Example, ...]:
    """Classes as examples, those of the lowest recall first."""
    recall = np.array([told[labels == c].mean() for c in range(len(names))])
    order = np.argsort(recall, kind="stable")[:LISTED]
    return tuple(Example(split="train", name=names[c], says=f"recall {percent(recall[c])}") for c in order)
