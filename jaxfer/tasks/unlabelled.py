"""Inputs alone: what a method with a loss of its own learns from, such as `simclr`. Labels there are stay unread."""

from __future__ import annotations

import numpy as np

from jaxfer.data.split import Split
from jaxfer.task import Task


def task() -> Task:
    """No loss; the metric is `rank`, the effective rank of the features of a split (`effective_rank`).

    It reads no label, and features that collapse have little of it.
    """
    return Task(
        outputs=lambda classes: 0,
        head="embedding",
        target="",
        shapes=lambda n, outputs, fields: {},
        targets=lambda split, rows, encoded, draw: {},
        loss=None,
        scores=lambda outputs, batch: {},
        gathered=_gathered,
        monitor="rank",
        maximize=True,
    )


def effective_rank(features: np.ndarray) -> float:
    """exp of the entropy of the normalised singular values of [n, width]; 0 of features that are all zero.

    RankMe, Garrido et al., 2023, arXiv:2210.02885, eq. 1, after Roy and Vetterli, 2007. NaN of what is not finite.
    """
    features = np.asarray(features, np.float64)
    if not np.isfinite(features).all():
        return float("nan")
    values = np.linalg.svd(features, compute_uv=False)
    if not values.sum():
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _gathered(features: np.ndarray, split: Split) -> dict[str, float]:
    return {"rank": effective_rank(features)}
