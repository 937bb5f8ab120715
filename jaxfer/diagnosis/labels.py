"""Labels that are probably wrong: confident learning on frozen features of `config.init`, of train and of val.

Northcutt et al., 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", arXiv:1911.00068. Probabilities
are out of sample: five folds of logistic regression on what the output layer of the starting checkpoint would read, or
on the raw inputs from scratch. Val, which is in no fold, has the mean of all five. An example labelled i counts for
class j where its probability of j reaches the mean of those of the examples labelled j (eq. 1 and 2), of several the
likeliest; off the diagonal it is suspicious. The counts, scaled to the labels that there are, are the joint
distribution of given and true labels (eq. 3). The examples are ranked by how much likelier the likeliest other class is
than their own (normalised margin).

The features' own errors look the same: where they tell the classes apart badly, the estimate is of little worth, and
the finding is a note. Of sets of labels each is looked at by itself, as given or absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import balanced_accuracy_score

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
      margin: float64 [n], by how much the given class is likelier than the others.
    """

    joint: np.ndarray
    share: float
    suspects: np.ndarray
    other: np.ndarray
    margin: np.ndarray


def confident(chances: np.ndarray, labels: np.ndarray) -> Confident:
    """Of probabilities [n, classes] out of sample and given labels; none counts for a class that does not occur."""
    n, classes = chances.shape
    thresholds = np.array([chances[labels == c, c].mean() if np.any(labels == c) else np.inf for c in range(classes)])
    above = np.where(chances >= thresholds, chances, -1)
    counted, guess = above.max(1) >= 0, above.argmax(1)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels[counted], guess[counted]), 1)
    own = np.bincount(labels, minlength=classes)
    counts += np.diag(np.where(counts.sum(1) == 0, own, 0))  # a class of which none counts is taken as it is
    joint = counts / np.maximum(counts.sum(1, keepdims=True), 1) * own[:, None] / n
    rest = chances.copy()
    rest[np.arange(n), labels] = -1
    margin = chances[np.arange(n), labels] - rest.max(1)
    off = np.flatnonzero(counted & (guess != labels))
    suspects = off[np.argsort(margin[off], kind="stable")]
    return Confident(joint, float(1 - np.trace(joint)), suspects, rest.argmax(1), margin)


def check(
    opened: Opened, split: str, labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], reads: str
) -> Iterator[Finding]:
    """One finding.

    Args:
      opened: its split of this name are the examples.
      split: train or val.
      labels: int [n].
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
        message=f"About {percent(found.share)} of the labels of {split} are wrong or ambiguous, by confident learning; "
        f"{len(found.suspects):,} of {len(labels):,} examples are suspicious. Logistic regression on {reads} agrees "
        f"with {percent(accuracy)} of the labels out of sample{doubt}.",
        fix="look at the suspicious ones and correct them in the files; a robust loss is config.task.label_smoothing",
        value=found.share,
        threshold=ESTIMATE if sure else 0.0,
        examples=opened.some(
            split, found.suspects, lambda i: f"labelled {names[labels[i]]}, looks like {names[found.other[i]]}"
        ),
    )


def check_sets(
    opened: Opened, split: str, given: np.ndarray, probabilities: Mapping[int, np.ndarray], reads: str
) -> Iterator[Finding]:
    """One finding for sets of labels.

    Args:
      opened: its split of this name are the examples.
      split: train or val.
      given: int [n, labels], 1 for a label that an example has.
      probabilities: {label: [n, 2], out of sample}, of those that five training examples have and five lack.
      reads: what the probabilities are from.
    """
    names = opened.data.classes
    found = {label: confident(chances, given[:, label]) for label, chances in probabilities.items()}
    suspects = [(one.margin[i], int(i), label) for label, one in found.items() for i in one.suspects]
    if not suspects:
        return
    rows, of = zip(*((i, label) for _, i, label in sorted(suspects)), strict=True)
    right = {label: balanced_accuracy_score(given[:, label], p.argmax(1)) for label, p in probabilities.items()}
    told = [label for label, accuracy in right.items() if accuracy >= ACCURACY]
    has = int(given[:, told].sum())
    share = sum(found[label].share for label in told) * len(given) / has if has else 0.0
    doubt = "" if told else ", too badly to take this for more than a list to look at"
    place = {row: at for at, row in reversed([*enumerate(rows)])}  # the most suspicious label of an example

    def says(i: int) -> str:
        label = of[place[i]]
        return f"{names[label]} is given, looks absent" if given[i, label] else f"{names[label]} is absent, looks given"

    yield Finding(
        severity=WARNING if share >= ESTIMATE else NOTE,
        kind="label_issues",
        message=f"{len(suspects):,} labels of {len(place):,} of {len(given):,} examples of {split} are suspicious, by "
        f"confident learning of each label. Logistic regression on {reads} tells {len(told)} of {len(found)} labels "
        f"apart with a balanced accuracy of {percent(ACCURACY)}{doubt}"
        + (f"; of these as many are wrong or ambiguous as {percent(share)} of those given." if told else "."),
        fix="look at the suspicious ones and correct them in the files",
        value=share,
        threshold=ESTIMATE if share >= ESTIMATE else 0.0,
        examples=opened.some(split, list(place), says),
    )
