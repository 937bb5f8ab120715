"""Linear models that say something of each example from the folds without it: its class, its labels, its value.

They read vectors, or texts by TF-IDF. Of the strengths of the penalty the best one out of sample is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from sklearn.model_selection import StratifiedKFold

from jaxfer.diagnosis.vectors import SEED
from jaxfer.evals.baselines import WORDS, Baseline, baselines
from jaxfer.linear import SOLVERS, Axes, Problem

FOLDS = 5
PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # of the mean loss, the strongest first
FEW_PENALTIES = (3.0, 0.3, 0.03)  # where many fits are to take seconds
STRONG_PENALTIES = (100.0, 30.0, 10.0, *PENALTIES)  # of ridge regression, where each costs next to nothing

Fold = tuple[np.ndarray, np.ndarray]
Outputs = tuple[np.ndarray, list[np.ndarray]]  # [n, width] out of sample, and [m, width] of others from each fold


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
    held_back = folds(labels, part)
    if x.dtype == object:
        path, stops = _of_texts(x, labels, others, held_back), False
    else:
        path, stops = _of_vectors(*_turned(x, others), labels, held_back, penalties), True
    return _likeliest(path, labels, stops)


def of_sets(
    x: np.ndarray, given: np.ndarray, others: np.ndarray, part: float = 1.0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`chances_beside` of each label by itself, [n, 2] and [m, 2], in folds that all labels share.

    Args:
      x: vectors [n, d], or texts.
      given: int [n, labels], 1 for a label that an example has.
      others: [m, d], or texts.
      part: of the examples of a fold.
    """
    held_back = folds(np.zeros(len(given), int), part)
    if x.dtype != object:
        turned = _turned(x, others)
        return [_likeliest(_of_vectors(*turned, own, held_back, FEW_PENALTIES), own, True) for own in given.T]
    *_, model = baselines("multilabel", given.shape[1], features=WORDS)
    settings, found = model.settings[: len(FEW_PENALTIES)], []
    path = [_by_fold(x, given.astype(bool), others, held_back, model, setting) for setting in settings]
    for c, own in enumerate(given.T):
        logits = [(_two(odds[:, c]), [_two(rest[:, c]) for rest in of_others]) for odds, of_others in path]
        found.append(_likeliest(logits, own, False))
    return found


def _likeliest(path: Iterable[Outputs], labels: np.ndarray, stops: bool) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities, those of others) of the likeliest logits; `stops` where they become less likely."""
    best, beside, least = np.zeros(0), np.zeros(0), np.inf
    for logits, of_others in path:
        found = _softmax(logits)
        loss = -np.log(np.maximum(found[np.arange(len(labels)), labels], 1e-12)).mean()
        if loss < least:
            best, beside, least = found, np.mean([_softmax(own) for own in of_others], 0), loss
        elif stops:
            break
    return best, beside


def _turned(x: np.ndarray, others: np.ndarray) -> tuple[Axes, np.ndarray, np.ndarray]:
    """Inputs are standardised, and turned to their axes, once for all folds."""
    inputs = SOLVERS["lbfgs"].inputs(x)
    return inputs, inputs(x), inputs(others)


def _of_vectors(
    inputs: Axes,
    x: np.ndarray,
    others: np.ndarray,
    labels: np.ndarray,
    held_back: Sequence[Fold],
    penalties: Sequence[float],
) -> Iterator[Outputs]:
    """The logits of each penalty."""
    classes, paths = int(labels.max()) + 1, []
    for train, _ in held_back:
        problem = Problem(x=x[train], inputs=inputs, labels=labels[train], outputs=classes)
        paths.append(SOLVERS["lbfgs"].solve(problem, penalties=[len(train) * penalty for penalty in penalties]))
    for solutions in zip(*paths, strict=True):
        logits = np.zeros((len(labels), classes))
        for (_, held), solution in zip(held_back, solutions, strict=True):
            logits[held] = solution.outputs(x[held])
        yield logits, [solution.outputs(others) for solution in solutions]


def _of_texts(x: np.ndarray, labels: np.ndarray, others: np.ndarray, held_back: Sequence[Fold]) -> Iterator[Outputs]:
    """The logits of each strength of the penalty."""
    *_, model = baselines("classification", int(labels.max()) + 1, features=WORDS)
    return (_by_fold(x, labels, others, held_back, model, setting) for setting in model.settings)


def _by_fold(
    x: np.ndarray, labels: np.ndarray, others: np.ndarray, held_back: Sequence[Fold], model: Baseline, setting: float
) -> Outputs:
    """What a baseline says that is fitted to each fold."""
    found, of_others = {}, []
    for train, held in held_back:
        predict = model.fit(x[train], labels[train], setting)
        found |= zip(held.tolist(), predict(x[held]).astype(np.float64), strict=True)
        of_others.append(predict(others) if len(others) else np.zeros((0, len(found[held[0]]))))
    return np.stack([found[i] for i in range(len(labels))]), of_others


def _two(logits: np.ndarray) -> np.ndarray:
    """[n, 2] of the log odds [n] of a label."""
    return np.stack([np.zeros_like(logits), logits], 1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    chances = np.exp(logits - logits.max(1, keepdims=True))
    return chances / chances.sum(1, keepdims=True)


def of_values(x: np.ndarray, labels: np.ndarray, part: float = 1.0) -> np.ndarray:
    """What ridge regression on the folds without it says of each example, [n], at the strength of the least error."""
    held_back, path = folds(np.zeros(len(labels), int), part), []
    if x.dtype == object:
        *_, model = baselines("regression", 0, features=WORDS)
        path = [_by_fold(x, labels, x[:0], held_back, model, setting)[0][:, 0] for setting in model.settings]
    else:
        path = [np.zeros(len(labels)) for _ in STRONG_PENALTIES]
        for train, held in held_back:
            inputs = SOLVERS["ridge"].inputs(x[train])
            problem = Problem(x=inputs(x[train]), inputs=inputs, labels=labels[train].astype(np.float64), outputs=1)
            solutions = SOLVERS["ridge"].solve(problem, penalties=[len(train) * p for p in STRONG_PENALTIES])
            for found, solution in zip(path, solutions, strict=True):
                found[held] = solution.outputs(inputs(x[held]))[:, 0]
    return min(path, key=lambda found: np.square(found - labels).mean())
