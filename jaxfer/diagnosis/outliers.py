"""Examples unlike all others of the training split: their mean cosine distance to the ten nearest, over the median.

Kuan and Mueller, 2022, "Back to the Basics: Revisiting Out-of-Distribution Detection Baselines", arXiv:2207.03061.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from jaxfer.diagnosis.finding import Example, Finding, graded, percent
from jaxfer.diagnosis.vectors import topics

NEIGHBOURS, RATIO = 10, 2.7  # Datalab's threshold, 0.37, is that of the inverse
MANY = 0.01


def remoteness(x: np.ndarray) -> np.ndarray:
    """[n], 1 for the median of vectors [n, d], or of texts; 0 where most have ten copies."""
    (x,) = topics(x)
    near = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine").fit(x)
    distances = near.kneighbors()[0].mean(1)
    median = float(np.median(distances))
    return distances / median if median > 1e-9 else np.zeros(len(x))


def check(
    x: np.ndarray, reads: str, some: Callable[[Any, Callable[[int], str]], tuple[Example, ...]]
) -> Iterator[Finding]:
    """One finding, of the vectors of train.

    Args:
      x: float [n, d], or texts.
      reads: what they are.
      some: (rows, what to say of a row) -> examples.
    """
    if len(x) <= 2 * NEIGHBOURS:
        return
    ratios = remoteness(x)
    far = np.flatnonzero(ratios >= RATIO)
    if len(far):
        far = far[np.argsort(-ratios[far], kind="stable")]
        severity, threshold = graded(len(far) / len(x), None, MANY)
        yield Finding(
            severity=severity,
            kind="outliers",
            message=f"{len(far):,} of {len(x):,} training examples ({percent(len(far) / len(x))}) are unlike all "
            f"others: by {reads}, {RATIO} times as far from their {NEIGHBOURS} nearest as the median.",
            fix="look at them: broken, of another domain, or rare and worth more examples",
            value=len(far) / len(x),
            threshold=threshold,
            examples=some(far, lambda i: f"{ratios[i]:.1f} times as far"),
        )
