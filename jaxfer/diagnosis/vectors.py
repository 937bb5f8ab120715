"""Vectors of the examples of each split for checks of whole sets, and linear models that tell such vectors apart.

They are the frozen features that the output layer of `config.init` would read. From scratch, and for a task without
classes, they are the raw inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import StratifiedKFold

from jaxfer.data.split import Split
from jaxfer.diagnosis.opened import Opened
from jaxfer.errors import InputError
from jaxfer.evals.baselines import TOKEN, WORDS, baselines
from jaxfer.linear import SOLVERS, Problem
from jaxfer.training import candidates

FOLDS = 5
PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # of the mean loss, the strongest first
FEW_PENALTIES = (3.0, 0.3, 0.03)  # where many fits are to take seconds
TOPICS = 64  # axes of the words of texts
SEED = 0

Fold = tuple[np.ndarray, np.ndarray]
Logits = tuple[np.ndarray, list[np.ndarray]]  # [n, classes] out of sample, and [m, classes] of others from each fold


class Vectors(NamedTuple):
    """What stands for the examples.

    Attributes:
      of: {split: float [n, width], or the texts themselves, objects [n]}.
      reads: what they are (`the raw pixels`).
    """

    of: Mapping[str, np.ndarray]
    reads: str


def vectors(opened: Opened, splits: Mapping[str, Split]) -> Vectors:
    """The vectors of these splits; their labels are not read.

    Raises:
      InputError: a checkpoint that can't be read, a model of several inputs from scratch, or inputs it can't read.
    """
    config = opened.config
    if config.init == "scratch" or not opened.one_class:
        (encoding, *others) = opened.encodings
        if others:
            raise InputError("a model of several inputs has no raw features from scratch")
        return Vectors({name: encoding.flat(split) for name, split in splits.items()}, f"the raw {encoding.features}")
    plan = candidates.planned(config, config.init, opened.overrides, opened.place, "config.init", config)
    found = {}
    for name, split in splits.items():
        data = dataclasses.replace(plan.data, splits={**plan.data.splits, "train": split})
        found[name] = candidates.frozen(dataclasses.replace(plan, data=data), units=False, say=opened.say).x
    return Vectors(found, f"the frozen features of {config.init}")


def topics(*of: np.ndarray) -> list[np.ndarray]:
    """Vectors as they are; texts as their words, weighted and turned to the largest axes of all of them."""
    if of[0].dtype != object:
        return list(of)
    words = TfidfVectorizer(token_pattern=TOKEN, sublinear_tf=True).fit_transform(np.concatenate(of))
    axes = min(TOPICS, min(words.shape) - 1)
    found = TruncatedSVD(axes, random_state=SEED).fit_transform(words) if axes > 0 else words.toarray()
    return np.split(found, np.cumsum([len(x) for x in of])[:-1])


def folds(labels: np.ndarray, part: float = 1.0) -> list[Fold]:
    """(rows to fit, rows held back), five times; of the rows to fit a part of each class, at least one.

    As many rows are fitted in each fold, so that one program fits them all.
    """
    found = list(StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(np.zeros(len(labels)), labels))
    fewest = np.min([np.bincount(labels[rows], minlength=labels.max() + 1) for rows, _ in found], 0)
    counts = np.where(fewest > 0, np.maximum(1, np.round(part * fewest)), 0).astype(int)
    rng = np.random.default_rng(SEED)
    mixed = [rng.permutation(rows) for rows, _ in found]
    kept = [[rows[labels[rows] == c][:count] for c, count in enumerate(counts)] for rows in mixed]
    return [(np.sort(np.concatenate(own)), held) for own, (_, held) in zip(kept, found, strict=True)]


def chances(x: np.ndarray, labels: np.ndarray, part: float = 1.0, penalties: Sequence[float] = PENALTIES) -> np.ndarray:
    """Probabilities [n, classes] of each example from the folds without it; of vectors [n, d], or of texts by TF-IDF.

    Those are kept whose probabilities of the given labels are the likeliest. Of vectors the path of penalties, from the
    strongest on, is left once they become less likely: the weakest take by far the most iterations.
    """
    return chances_beside(x, labels, x[:0], part, penalties)[0]


def chances_beside(
    x: np.ndarray, labels: np.ndarray, others: np.ndarray, part: float = 1.0, penalties: Sequence[float] = PENALTIES
) -> tuple[np.ndarray, np.ndarray]:
    """`chances`, and the mean of the folds' probabilities [m, classes] of m other examples."""
    texts, held_back = x.dtype == object, folds(labels, part)
    best, beside, least = np.zeros(0), np.zeros(0), np.inf
    path = _of_texts(x, labels, others, held_back) if texts else _of_vectors(x, labels, others, held_back, penalties)
    for logits, of_others in path:
        found = _softmax(logits)
        loss = -np.log(np.maximum(found[np.arange(len(labels)), labels], 1e-12)).mean()
        if loss < least:
            best, beside, least = found, np.mean([_softmax(own) for own in of_others], 0), loss
        elif not texts:
            break
    return best, beside


def _of_vectors(
    x: np.ndarray, labels: np.ndarray, others: np.ndarray, held_back: Sequence[Fold], penalties: Sequence[float]
) -> Iterator[Logits]:
    """The logits of each penalty; inputs are standardised, and turned to their axes, once for all folds."""
    solver, classes = SOLVERS["lbfgs"], int(labels.max()) + 1
    inputs = solver.inputs(x)
    x, others, paths = inputs(x), inputs(others), []
    for train, _ in held_back:
        problem = Problem(x=x[train], inputs=inputs, labels=labels[train], outputs=classes)
        paths.append(solver.solve(problem, penalties=[len(train) * penalty for penalty in penalties]))
    for solutions in zip(*paths, strict=True):
        logits = np.zeros((len(labels), classes))
        for (_, held), solution in zip(held_back, solutions, strict=True):
            logits[held] = solution.outputs(x[held])
        yield logits, [solution.outputs(others) for solution in solutions]


def _of_texts(x: np.ndarray, labels: np.ndarray, others: np.ndarray, held_back: Sequence[Fold]) -> Iterator[Logits]:
    """The logits of each strength of the penalty."""
    classes = int(labels.max()) + 1
    *_, model = baselines("classification", classes, features=WORDS)
    for setting in model.settings:
        logits, of_others = np.zeros((len(labels), classes)), []
        for train, held in held_back:
            predict = model.fit(x[train], labels[train], setting)
            logits[held] = predict(x[held])
            of_others.append(predict(others) if len(others) else np.zeros((0, classes)))
        yield logits, of_others


def _softmax(logits: np.ndarray) -> np.ndarray:
    chances = np.exp(logits - logits.max(1, keepdims=True))
    return chances / chances.sum(1, keepdims=True)
