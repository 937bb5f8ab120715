"""Labels that are probably wrong: confident learning on frozen features of `config.init`, of the training split alone.

Northcutt et al., 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", arXiv:1911.00068. Probabilities
are out of sample: five folds of logistic regression on what the output layer of the starting checkpoint would read, or
on the raw inputs from scratch. An example labelled i counts for class j where its probability of j reaches the mean of
those of the examples labelled j (eq. 1 and 2), of several the likeliest; off the diagonal it is suspicious. The counts,
scaled to the labels that there are, are the joint distribution of given and true labels (eq. 3). The examples are
ranked by how much likelier the likeliest other class is than their own (normalised margin).

The features' own errors look the same: where they tell the classes apart badly, the estimate is of little worth, and
the finding is a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxfer.diagnosis.finding import NOTE, WARNING, Finding, percent
from jaxfer.diagnosis.opened import Opened

ESTIMATE = 0.03  # share of wrong labels
ACCURACY = 0.75  # of the folds, below which the estimate says little


class Confident(NamedTuple):
    """What confident learning says.

    Attributes:
      joint: float64 [classes, classes], of given labels (rows) and true ones (columns).
      share: of it off the diagonal.
      suspects: int, the examples off the diagonal of the counts, the most suspicious first.
      other: int [n], the likeliest class besides the given one.
    """

    joint: np.ndarray
    share: float
    suspects: np.ndarray
    other: np.ndarray


def confident(chances: np.ndarray, labels: np.ndarray) -> Confident:
    """Of probabilities [n, classes] out of sample and given labels, each class of which occurs."""
    n, classes = chances.shape
    thresholds = np.array([chances[labels == c, c].mean() for c in range(classes)])
    above = np.where(chances >= thresholds, chances, -1)
    counted, guess = above.max(1) >= 0, above.argmax(1)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels[counted], guess[counted]), 1)
    own = np.bincount(labels, minlength=classes)
    counts += np.diag(np.where(counts.sum(1) == 0, own, 0))  # a class of which none counts is taken as it is
    joint = counts / counts.sum(1, keepdims=True) * own[:, None] / n
    rest = chances.copy()
    rest[np.arange(n), labels] = -1
    margin = chances[np.arange(n), labels] - rest.max(1)
    off = np.flatnonzero(counted & (guess != labels))
    suspects = off[np.argsort(margin[off], kind="stable")]
    return Confident(joint, float(1 - np.trace(joint)), suspects, rest.argmax(1))


def check(
    opened: Opened, labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], reads: str
) -> Iterator[Finding]:
    """One finding.

    Args:
      opened: its train are the examples.
      labels: int [n], each class five times or more.
      probabilities: [n, classes], out of sample.
      names: of the classes.
      reads: what the probabilities are from.
    """
    found = confident(probabilities, labels)
    if not len(found.suspects):
        return
    accuracy = float(np.mean(probabilities.argmax(1) == labels))
    sure = accuracy >= ACCURACY and found.share >= ESTIMATE
    doubt = "" if accuracy >= ACCURACY else ", too few to take this for more than a list to look at"
    yield Finding(
        severity=WARNING if sure else NOTE,
        kind="label_issues",
        message=f"About {percent(found.share)} of the training labels are wrong or ambiguous, by confident learning; "
        f"{len(found.suspects):,} of {len(labels):,} examples are suspicious. Logistic regression on {reads} agrees "
        f"with {percent(accuracy)} of the labels out of sample{doubt}.",
        fix="look at the suspicious ones and correct them in the files; a robust loss is config.task.label_smoothing",
        value=found.share,
        threshold=ESTIMATE,
        examples=opened.some(
            "train", found.suspects, lambda i: f"labelled {names[labels[i]]}, looks like {names[found.other[i]]}"
        ),
    )
