"""A pilot: linear models on the vectors, beside a constant answer and the raw inputs, and what more labels add.

Out of sample within the training split, in five folds: accuracy of classes by logistic regression, macro AUPRC of sets
of labels by one for each label, R2 of values by ridge regression. The learning curve fits err(n) = a n^-b + c (Hestness
et al., 2017, "Deep Learning Scaling is Predictable, Empirically", arXiv:1712.00409) to an eighth, a quarter, a half and
all of the training part of each fold; it says what twice as many examples may give, and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls
from sklearn.metrics import average_precision_score, r2_score

from jaxfer.diagnosis import out_of_sample
from jaxfer.diagnosis.finding import LISTED, NOTE, WARNING, Example, Finding, percent
from jaxfer.diagnosis.opened import Opened
from jaxfer.diagnosis.out_of_sample import FEW_PENALTIES, FOLDS, chances, folds
from jaxfer.diagnosis.vectors import SEED
from jaxfer.evals.intervals import gain, mean_interval, paired_interval

MOST = 1024  # examples
PARTS = (1 / 8, 1 / 4, 1 / 2)  # besides all of them
POWERS = np.linspace(0.05, 2.0, 40)  # of b
LEAST = 40  # of each class or label to fit, or values in an eighth: from fewer there is no curve
VALUES = 20  # fewest
WORSE = -0.02  # of the score, features less raw inputs

Array = np.ndarray


class Kind(NamedTuple):
    """What there is to tell.

    Attributes:
      told: (x, labels, part of a fold's training examples) -> what the folds without it say of each example, [n, ...].
      score: (what is told, labels) -> at most 1.
      constant: labels -> the score of the best answer that is one for all.
      wrong: (what is told, labels) -> [n], how far off it is.
      strata: labels -> int [n], by which folds are drawn.
      fewest: labels -> examples that `LEAST` is of.
      names: of the model, the score, the constant answer, and the labels, in sentences.
      closer: what is said of an example that the raw inputs tell better.
    """

    told: Callable[[Array, Array, float], Array]
    score: Callable[[Array, Array], float]
    constant: Callable[[Array], float]
    wrong: Callable[[Array, Array], Array]
    strata: Callable[[Array], Array]
    fewest: Callable[[Array], float]
    names: tuple[str, str, str, str]
    closer: str


def _of_labels(x: Array, given: Array, part: float) -> Array:
    found = out_of_sample.of_sets(x, given, x[:0], part)
    return np.stack([chances[:, 1] for chances, _ in found], 1)


def _precisions(told: Array, given: Array) -> Array:
    """Average precision of each label that occurs."""
    return np.array([average_precision_score(given[:, c], told[:, c]) for c in np.flatnonzero(given.any(0))])


ONE = Kind(
    told=lambda x, labels, part: chances(x, labels, part, FEW_PENALTIES).argmax(1),
    score=lambda told, labels: float(np.mean(told == labels)),
    constant=lambda labels: np.bincount(labels).max() / len(labels),
    wrong=lambda told, labels: (told != labels).astype(np.float64),
    strata=lambda labels: labels,
    fewest=lambda labels: np.bincount(labels).min(),
    names=("Logistic regression", "accuracy", "the largest class is", "classes"),
    closer="told by the raw {} alone",
)
SETS = Kind(
    told=_of_labels,
    score=lambda told, given: float(np.mean(_precisions(told, given))) if given.any() else 0.0,
    constant=lambda given: float(given.mean()),
    wrong=lambda told, given: np.abs(told - given).mean(1),
    strata=lambda given: np.zeros(len(given), int),
    fewest=lambda given: np.minimum(given.sum(0), (1 - given).sum(0)).min(),
    names=("Logistic regression for each label", "macro AUPRC", "with the shares of the labels it is", "labels"),
    closer="closer by the raw {}",
)
VALUE = Kind(
    told=out_of_sample.of_values,
    score=lambda told, values: float(r2_score(values, told)),
    constant=lambda values: 0.0,
    wrong=lambda told, values: np.abs(told - values),
    strata=lambda values: np.zeros(len(values), int),
    fewest=lambda values: len(values) * PARTS[0],
    names=("Ridge regression", "explained variance (R2)", "with the mean it is", "values"),
    closer="closer by the raw {}",
)


def extrapolated(counts: Sequence[int], errors: Sequence[float], to: int) -> float:
    """The error at `to` examples by a n^-b + c, with a and c not negative, fitted by least squares."""
    n, fits = np.asarray(counts, np.float64), []
    for power in POWERS:
        (a, c), residual = nnls(np.stack([n**-power, np.ones_like(n)], 1), np.asarray(errors, np.float64))
        fits.append((residual, a * to**-power + c))
    return float(min(fits)[1])


def check(opened: Opened, x: Array, labels: Array, names: Sequence[str], reads: str) -> Iterator[Finding]:
    """A note, and a warning where the raw inputs do better than frozen features of them.

    Args:
      opened: its train are the examples.
      x: their vectors, or texts.
      labels: int [n], each class five times or more.
      names: of the classes.
      reads: what they are.
    """
    rows = _drawn(len(labels))
    rows = rows[np.bincount(labels[rows])[labels[rows]] >= FOLDS]
    if len(np.unique(labels[rows])) < 2:
        return
    kept, labels = np.unique(labels[rows], return_inverse=True)

    def hardest(told: Array) -> tuple[Example, ...]:
        """Classes, those of the lowest recall first."""
        recall = np.array([np.mean(told[labels == c] == c) for c in range(len(kept))])
        order = np.argsort(recall, kind="stable")[:LISTED]
        return tuple(Example(split="train", name=names[kept[c]], says=f"recall {percent(recall[c])}") for c in order)

    yield from _pilot(opened, ONE, rows, x[rows], labels, reads, hardest)


def of_sets(opened: Opened, x: Array, given: Array, names: Sequence[str], reads: str) -> Iterator[Finding]:
    """Likewise of sets of labels, int [n, labels], those that five examples have and five lack."""
    rows = _drawn(len(given))
    kept = np.flatnonzero(np.minimum(given[rows].sum(0), (1 - given[rows]).sum(0)) >= FOLDS)
    if not len(kept):
        return
    given = given[np.ix_(rows, kept)]

    def hardest(told: Array) -> tuple[Example, ...]:
        """Labels, those of the lowest average precision first."""
        precisions = _precisions(told, given)
        order = np.argsort(precisions, kind="stable")[:LISTED]
        return tuple(Example(split="train", name=names[kept[c]], says=f"AUPRC {percent(precisions[c])}") for c in order)

    yield from _pilot(opened, SETS, rows, x[rows], given, reads, hardest)


def of_values(opened: Opened, x: Array, values: Array, reads: str) -> Iterator[Finding]:
    """Likewise of values, [n]."""
    rows = _drawn(len(values))
    values = values[rows].astype(np.float64)
    if len(rows) < VALUES or not np.ptp(values):
        return

    def furthest(told: Array) -> tuple[Example, ...]:
        """Those furthest off."""
        order = np.argsort(-np.abs(told - values), kind="stable")
        says = {int(rows[i]): f"{values[i]:.4g}, {told[i]:.4g} by the regression" for i in order}
        return opened.some("train", rows[order], lambda row: says[row])

    yield from _pilot(opened, VALUE, rows, x[rows], values, reads, furthest)


def _drawn(count: int) -> Array:
    return np.random.default_rng(SEED).permutation(count)[:MOST]


def _pilot(
    opened: Opened,
    kind: Kind,
    rows: Array,
    x: Array,
    labels: Array,
    reads: str,
    examples: Callable[[Array], tuple[Example, ...]],
) -> Iterator[Finding]:
    """The findings; `examples` of what is told."""
    held_back, (model, score, constant, what) = folds(kind.strata(labels)), kind.names

    def by_fold(told: Array) -> Array:
        return np.array([kind.score(told[held], labels[held]) for _, held in held_back])

    told, best = kind.told(x, labels, 1.0), kind.constant(labels)
    own, labelled = by_fold(told), len(held_back[0][0])
    mean, half = mean_interval(own)
    says = f"{model} on {reads} has {100 * mean:.1f} ± {100 * half:.1f} % {score} from {labelled:,} labels, out of "
    says += f"sample; {constant} {100 * best:.1f} %"
    (encoding, *others), worse, better = opened.encodings, None, np.zeros(0, int)
    if not others and reads != f"the raw {encoding.features}":
        told_raw = kind.told(encoding.flat(opened.splits["train"].take(rows)), labels, 1.0)
        raw, nearer = by_fold(told_raw), kind.wrong(told, labels) - kind.wrong(told_raw, labels)
        better = np.lexsort((rows, -nearer))[: np.sum(nearer > 0)]
        best = max(best, float(raw.mean()))
        says += f", and on the raw {encoding.features} it has {100 * raw.mean():.1f} %"
        worse = paired_interval(own, raw, pairs="folds")
    if kind.fewest(labels) * (1 - 1 / FOLDS) >= LEAST:
        counts = [*(len(folds(kind.strata(labels), part)[0][0]) for part in PARTS), labelled]
        curve = [*(by_fold(kind.told(x, labels, part)) for part in PARTS), own]
        then = [1 - extrapolated(counts, 1 - np.array(of), 2 * labelled) for of in zip(*curve, strict=True)]
        more, spread = mean_interval(100 * (np.array(then) - own))
        says += f". By its learning curve, twice as many labels add {more:.1f} ± {spread:.1f} points"
    yield Finding(
        severity=NOTE,
        kind="pilot",
        message=f"{says}.",
        fix="a transfer has to beat these; `jaxfer compare` says whether it does",
        value=mean,
        threshold=best,
        examples=examples(told),
    )
    if worse is not None and worse.mean <= WORSE and worse.high < 0:
        closer = kind.closer.format(encoding.features)
        yield Finding(
            severity=WARNING,
            kind="worse_than_inputs",
            message=f"{reads[0].upper()}{reads[1:]} say less of the {what} than the raw {encoding.features}: {score} "
            f"{gain(worse.mean, worse.low, worse.high)}, paired over {FOLDS} folds.",
            fix="rank other checkpoints (`jaxfer rank`), fine-tune rather than probe, and compare with scratch",
            value=worse.mean,
            threshold=WORSE,
            examples=opened.some("train", rows[better], lambda i: closer),
        )
