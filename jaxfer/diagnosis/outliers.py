"""Examples unlike all training examples: their mean cosine distance to the ten nearest, over the median one of train.

Kuan and Mueller, 2022, "Back to the Basics: Revisiting Out-of-Distribution Detection Baselines", arXiv:2207.03061.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from sklearn.neighbors import NearestNeighbors

from jaxfer.diagnosis.finding import NOTE, Finding, Some, graded, percent
from jaxfer.diagnosis.vectors import topics

NEIGHBOURS, RATIO = 10, 2.7  # Datalab's threshold, 0.37, is that of the inverse
MANY = 0.01


def remoteness(x: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """[n] of vectors [n, d], or of texts, and [m] of each of the others, whose nearest are searched among the first; 1
    for the median of the first, and 0 for all where most of these have ten copies."""
    x, *others = topics(x, *others)
    near = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine").fit(x)
    distances = [near.kneighbors()[0].mean(1), *(near.kneighbors(other)[0].mean(1) for other in others)]
    median = float(np.median(distances[0]))
    return [own / median if median > 1e-9 else np.zeros(len(own)) for own in distances]


def check(of: Mapping[str, np.ndarray], reads: str, some: Some) -> Iterator[Finding]:
    """A finding for each of train and val.

    Args:
      of: {split: float [n, d], or texts}.
      reads: what they are.
      some: (split, rows, what to say of a row) -> examples.
    """
    names = [name for name in ("train", "val") if len(of.get(name, ()))]
    if len(of["train"]) <= 2 * NEIGHBOURS:
        return
    for name, ratios in zip(names, remoteness(*(of[name] for name in names)), strict=True):
        far = np.flatnonzero(ratios >= RATIO)
        if not len(far):
            continue
        far, share = far[np.argsort(-ratios[far], kind="stable")], len(far) / len(ratios)
        # Val may well be drawn otherwise than train, which `drift` measures.
        severity, threshold = graded(share, None, MANY) if name == "train" else (NOTE, 0.0)
        yield Finding(
            severity=severity,
            kind="outliers",
            message=f"{len(far):,} of {len(ratios):,} examples of {name} ({percent(share)}) are unlike all of train: "
            f"by {reads}, {RATIO} times as far from their {NEIGHBOURS} nearest as the median of train.",
            fix="look at them: broken, of another domain, or rare and worth more examples",
            value=share,
            threshold=threshold,
            examples=some(name, far, lambda i, ratios=ratios: f"{ratios[i]:.1f} times as far"),
        )
