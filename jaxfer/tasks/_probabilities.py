"""Metrics of class probabilities: ranking (AUROC, AUPRC, top 5) and calibration (ECE, Brier), from logits, in NumPy.

scikit-learn has the areas; importing it takes half as long again as everything else that a run imports.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BINS = 15
TOP = 5
BLOCK = 2**22  # logits at a time: those of 50,000 examples and 1,000 classes are never copied as float64


def of_logits(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{metric: value} of the softmax of logits [n, classes], for labels int [n].

    - `auroc`, `auprc`: of two classes, the second against the first; as scikit-learn's `roc_auc_score` and
      `average_precision_score`. `macro_auroc`, `macro_auprc`: of more, the mean over the classes that occur, each
      against the rest. 0 where there is nothing to rank.
    - `top5_accuracy`: of more than 5 classes. Of equal logits the first class comes first, as in `argmax`.
    - `ece`: expected calibration error over 15 bins of equal width, (0, 1/15] to (14/15, 1], of the largest
      probability: the mean of |accuracy - mean probability|, weighted by the bins' examples (Guo et al., 2017,
      arXiv:1706.04599, eq. 3).
    - `brier`: the mean of the squared distance between the probabilities and the one-hot label, summed over the
      classes (Brier, 1950): from 0 to 2, twice what is usual of two classes.

    Logits that are not numbers make every metric NaN.
    """
    (n, classes), true = logits.shape, logits[np.arange(len(labels)), labels].astype(np.float64)
    log_total, confidence, squares = (np.empty(n) for _ in range(3))
    place = np.empty(n, np.int64)  # classes before the true one
    with np.errstate(invalid="ignore"):
        for part in _blocks(n, classes):
            rows, own = logits[part].astype(np.float64), true[part, None]
            top = rows.max(-1)
            before = (rows > own) | ((rows == own) & (np.arange(classes) < labels[part, None]))
            place[part] = before.sum(-1)
            rows = np.exp(rows - top[:, None])
            total = rows.sum(-1)
            confidence[part], log_total[part] = 1 / total, top + np.log(total)
            squares[part] = np.square(rows).sum(-1) / total**2
        brier = squares - 2 * np.exp(true - log_total) + 1
        auroc, auprc = _areas(logits, labels, true, log_total)
    prefix = "" if classes == 2 else "macro_"
    metrics = {
        **{f"{prefix}auroc": auroc, f"{prefix}auprc": auprc},
        **({"top5_accuracy": float(np.mean(place < TOP))} if classes > TOP else {}),
        **{"ece": _calibration_error(confidence, place == 0), "brier": float(brier.mean())},
    }
    return metrics if np.isfinite(log_total).all() else dict.fromkeys(metrics, float("nan"))


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    bins = np.clip(np.ceil(np.nan_to_num(confidence) * BINS) - 1, 0, BINS - 1).astype(np.int64)
    return float(np.abs(np.bincount(bins, weights=right - confidence)).sum() / len(bins))


def _areas(logits: np.ndarray, labels: np.ndarray, true: np.ndarray, log_total: np.ndarray) -> tuple[float, float]:
    """(AUROC, AUPRC): of the second of two classes, or the means over those that occur.

    Every class's scores are sorted once, and only its own examples are looked up there: 50,000 for all classes.
    """
    n, classes = logits.shape
    if classes == 2:  # the difference ranks as the probability does, and doesn't round to 1
        scores = logits[:, 1].astype(np.float64) - logits[:, 0]
        areas = [_of_class(np.sort(scores), np.sort(scores[labels == 1]))]
    else:
        order, areas = np.lexsort((true - log_total, labels)), []
        own = np.split((true - log_total)[order], np.cumsum(np.bincount(labels, minlength=classes))[:-1])
        for part in _blocks(classes, n):
            scores = np.sort(logits[:, part].T.astype(np.float64) - log_total)
            areas += map(_of_class, scores, own[part])
    auroc, auprc = ([area for area in column if area is not None] for column in zip(*areas, strict=True))
    return tuple(float(np.mean(area)) if area else 0.0 for area in (auroc, auprc))


def _of_class(scores: np.ndarray, own: np.ndarray) -> tuple[float | None, float | None]:
    """(AUROC, AUPRC) of one class: sorted scores of all examples, and of its own; None: there is none to rank."""
    positives, negatives = len(own), len(scores) - len(own)
    if not positives:
        return None, None
    below, own_below = np.searchsorted(scores, own), np.searchsorted(own, own)
    auprc = np.mean((positives - own_below) / (len(scores) - below))
    if not negatives:
        return None, auprc
    upto, own_upto = np.searchsorted(scores, own, "right"), np.searchsorted(own, own, "right")
    won = below - own_below + (upto - below - own_upto + own_below) / 2  # negatives below, and half of those level
    return won.sum() / (positives * negatives), auprc


def _blocks(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows of this width."""
    size = max(1, BLOCK // width)
    return (slice(begin, begin + size) for begin in range(0, count, size))
