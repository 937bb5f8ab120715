"""Whether inputs of two sets can be told apart: train from val and test, and from streams and the source's data.

Equally many of each are told apart by logistic regression in five folds. Proxy A-distance (Ben-David et al., 2007,
"Analysis of Representations for Domain Adaptation"): 2 (1 - 2 err), 0 where the folds guess and 2 where they never err.
MMD: the unbiased estimate of Gretton et al., 2012, "A Kernel Two-Sample Test", eq. 3, with an RBF kernel as wide as the
median distance, and the share of random divisions of the two sets that reach it. No label is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from jaxfer.diagnosis.finding import NOTE, WARNING, Finding, Some, reached
from jaxfer.diagnosis.out_of_sample import FEW_PENALTIES, chances, folds
from jaxfer.diagnosis.vectors import SEED, topics
from jaxfer.evals.intervals import mean_interval

LEAST, MOST = 50, 500  # examples of each set
AUC = {WARNING: 0.75, NOTE: 0.6}  # of the split's examples over train's
APART = 0.4  # proxy A-distance, from which on two domains are told apart: six of ten examples
SURE = 0.05  # p of MMD
DIVISIONS = 199
UNLIKE = "among those least like train"


class Gap(NamedTuple):
    """What tells two sets apart.

    Attributes:
      auc: of logistic regression out of sample, its mean over the folds.
      distance: proxy A-distance, likewise.
      half: half of its 95 % interval over the folds.
      mmd: squared maximum mean discrepancy.
      p: its permutation p.
      examples: of each set.
      foreign: int [examples], those of the second set, the least like the first one before.
    """

    auc: float
    distance: float
    half: float
    mmd: float
    p: float
    examples: int
    foreign: np.ndarray

    def __str__(self) -> str:
        return (
            f"AUC {self.auc:.2f}, proxy A-distance {self.distance:.2f} ± {self.half:.2f}, MMD p = {self.p:.3f}, "
            f"{self.examples:,} of each"
        )


def gap(a: np.ndarray, b: np.ndarray) -> Gap:
    """Of vectors [n, d] and [m, d], or of texts; as many are drawn of the larger set as the smaller one has."""
    rng, n = np.random.default_rng(SEED), min(len(a), len(b), MOST)
    rows, others = (rng.permutation(len(x))[:n] for x in (a, b))
    a, b = a[rows], b[others]
    x, of = np.concatenate([a, b]), np.repeat([0, 1], n)
    second = chances(x, of, penalties=FEW_PENALTIES)[:, 1]
    held = [rows for _, rows in folds(of)]
    errors = [np.mean((second[rows] > 0.5) != of[rows]) for rows in held]
    distance, half = mean_interval([2 * (1 - 2 * error) for error in errors])
    auc = np.mean([roc_auc_score(of[rows], second[rows]) for rows in held])
    foreign = others[np.argsort(-second[n:], kind="stable")]
    return Gap(float(auc), max(0.0, distance), half, *mmd(*topics(a, b)), n, foreign)


def mmd(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(squared MMD of [n, d] and [n, d], permutation p)."""
    x, n = np.concatenate([a, b]), len(a)
    distances = cdist(x, x, "sqeuclidean")
    width = np.median(distances[np.triu_indices(2 * n, 1)])
    kernel = np.exp(-distances / max(float(width), 1e-12))
    np.fill_diagonal(kernel, 0)
    signs = np.repeat([1.0, -1.0], n)
    rng = np.random.default_rng(SEED)
    divisions = np.stack([signs, *(rng.permutation(signs) for _ in range(DIVISIONS))])
    across = (kernel.sum() - np.einsum("ki,ij,kj->k", divisions, kernel, divisions, optimize=True)) / 2
    found = (kernel.sum() - across) / (n * (n - 1)) - across / n**2
    return float(found[0]), float(np.mean(found >= found[0]))


def splits(of: Mapping[str, np.ndarray], reads: str, some: Some) -> Iterator[Finding]:
    """A finding for val and test each where they can be told from train; `some` as in `outliers.check`."""
    for name in ("val", "test"):
        if min(len(of["train"]), len(of.get(name, ()))) < LEAST:
            continue
        found = gap(of["train"], of[name])
        if found.p <= SURE and (reaching := reached(found.auc, AUC)):
            severity, threshold = reaching
            yield Finding(
                severity=severity,
                kind="drift",
                message=f"{reads[0].upper()}{reads[1:]} tell {name} from train: {found}.",
                fix=f"if {name} is to be as train is, draw both alike (data.val_fraction); if not, it measures a shift",
                value=found.auc,
                threshold=threshold,
                examples=some(name, found.foreign, lambda i: UNLIKE),
            )


def domains(of: Mapping[str, np.ndarray], reads: str, some: Some) -> Iterator[Finding]:
    """A note for each other set, told apart or not: how far it is from train."""
    for name, x in of.items():
        if name in ("train", "val", "test") or min(len(of["train"]), len(x)) < LEAST:
            continue
        found = gap(of["train"], x)
        apart = found.p <= SURE and found.distance >= APART
        says = f"tell {name} from train" if apart else f"hardly tell {name} from train"
        yield Finding(
            severity=NOTE,
            kind="domain_gap",
            message=f"{reads[0].upper()}{reads[1:]} {says}: {found}.",
            fix="compare with source only: the wider the gap, the less a transfer may help"
            if apart
            else "none is needed",
            value=found.distance,
            threshold=APART,
            examples=some(name, found.foreign, lambda i: UNLIKE) if apart else (),
        )
