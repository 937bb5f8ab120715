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

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedKFold

from jaxfer.data.split import Split
from jaxfer.diagnosis.finding import NOTE, WARNING, Finding, percent
from jaxfer.diagnosis.opened import Opened
from jaxfer.errors import InputError
from jaxfer.evals.baselines import WORDS, baselines
from jaxfer.linear import SOLVERS, Problem
from jaxfer.training import candidates

FOLDS = 5
ROWS = 4096  # training examples at most, drawn alike of all
PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # of the mean loss, the strongest first
ESTIMATE = 0.03  # share of wrong labels
ACCURACY = 0.75  # of the folds, below which the estimate says little
SEED = 0


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


def chances(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities [n, classes] of each example from the folds without it; of vectors [n, d], or of texts by TF-IDF.

    Of a path of penalties the one is kept whose probabilities of the given labels are the likeliest.
    """
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(np.zeros(len(labels)), labels)
    path = _of_texts(x, labels, folds) if x.dtype == object else _of_vectors(x, labels, folds)
    found = [_softmax(logits) for logits in path]
    losses = [-np.log(np.maximum(p[np.arange(len(labels)), labels], 1e-12)).mean() for p in found]
    return found[int(np.argmin(losses))]


def _of_vectors(x: np.ndarray, labels: np.ndarray, folds: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """[penalties, n, classes]; inputs are standardised, and turned to their axes, once for all folds."""
    solver, classes = SOLVERS["lbfgs"], int(labels.max()) + 1
    inputs = solver.inputs(x)
    x = inputs(x)
    logits = np.zeros((len(PENALTIES), len(labels), classes))
    for train, held in folds:
        problem = Problem(x=x[train], inputs=inputs, labels=labels[train], outputs=classes)
        path = solver.solve(problem, penalties=[len(train) * penalty for penalty in PENALTIES])
        for i, solution in enumerate(path):
            logits[i, held] = solution.outputs(x[held])
    return logits


def _of_texts(x: np.ndarray, labels: np.ndarray, folds: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    *_, model = baselines("classification", int(labels.max()) + 1, features=WORDS)
    logits = np.zeros((len(model.settings), len(labels), int(labels.max()) + 1))
    for train, held in folds:
        for i, setting in enumerate(model.settings):
            logits[i, held] = model.fit(x[train], labels[train], setting)(x[held])
    return logits


def _softmax(logits: np.ndarray) -> np.ndarray:
    chances = np.exp(logits - logits.max(1, keepdims=True))
    return chances / chances.sum(1, keepdims=True)


def check(opened: Opened) -> Iterator[Finding]:
    """One finding; a note where it can't be said."""
    if not opened.one_class:
        return
    split, names = opened.data.splits["train"], opened.data.classes
    counts = np.bincount(split.labels, minlength=len(names))
    kept = np.flatnonzero(np.isin(split.labels, np.flatnonzero(counts >= FOLDS)))
    if len(kept) > ROWS:
        kept = np.sort(np.random.default_rng(SEED).choice(kept, ROWS, replace=False))
    classes, labels = np.unique(split.labels[kept], return_inverse=True)
    if len(classes) < 2 or np.bincount(labels).min() < FOLDS:
        yield _unchecked(f"expected {FOLDS} training examples of two classes or more", "raise data.labels_per_class")
        return
    split = split.take(kept)
    try:
        x, reads = _features(opened, split)
    except InputError as error:
        yield _unchecked(str(error).rstrip("."), "see `jaxfer show`; train or download what config.init names first")
        return
    opened.say(f"labels: {FOLDS} folds of logistic regression on {reads} of {len(split):,} training examples")
    probabilities = chances(x, labels)
    found = confident(probabilities, labels)
    if not len(found.suspects):
        return
    accuracy = float(np.mean(probabilities.argmax(1) == labels))
    sure = accuracy >= ACCURACY and found.share >= ESTIMATE
    shown = dataclasses.replace(opened, splits={"train": split})
    doubt = "" if accuracy >= ACCURACY else ", too few to take this for more than a list to look at"
    yield Finding(
        severity=WARNING if sure else NOTE,
        kind="label_issues",
        message=f"About {percent(found.share)} of the training labels are wrong or ambiguous, by confident learning; "
        f"{len(found.suspects):,} of {len(split):,} examples are suspicious. Logistic regression on {reads} agrees "
        f"with {percent(accuracy)} of the labels out of sample{doubt}.",
        fix="look at the suspicious ones and correct them in the files; a robust loss is config.task.label_smoothing",
        value=found.share,
        threshold=ESTIMATE,
        examples=shown.some(
            "train",
            found.suspects,
            lambda i: f"labelled {names[classes[labels[i]]]}, looks like {names[classes[found.other[i]]]}",
        ),
    )


def _unchecked(why: str, fix: str) -> Finding:
    return Finding(severity=NOTE, kind="labels_unchecked", message=f"Labels were not checked: {why}.", fix=fix)


def _features(opened: Opened, split: Split) -> tuple[np.ndarray, str]:
    """(features of these training examples, what they are)."""
    config = opened.config
    if config.init == "scratch":
        (encoding, *others) = opened.encodings
        if others:
            raise InputError("a model of several inputs has no raw features from scratch")
        return encoding.flat(split), f"the raw {encoding.features}"
    plan = candidates.planned(config, config.init, opened.overrides, opened.place, "config.init", config)
    data = dataclasses.replace(plan.data, splits={**plan.data.splits, "train": split})
    frozen = candidates.frozen(dataclasses.replace(plan, data=data), units=False, say=opened.say)
    return frozen.x, f"the frozen features of {config.init}"
