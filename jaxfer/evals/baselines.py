"""Simple baselines from pixels or words, which a transferred model has to beat.

An encoding's `flat` prepares a split, `baselines` lists a task's models, `jaxfer.task.score` computes its metrics.
None of them reads a split that is not passed to it:

    for baseline in baselines("classification", len(data.classes)):
        predict = baseline.fit(encoding.flat(train), train.labels, baseline.settings[0])
        metrics = score(task, predict(encoding.flat(val)), val)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from jaxfer.errors import InputError, nearest

PIXELS, WORDS = "pixels", "TF-IDF"
# A TF-IDF row has length 1, a standardised one the square root of its width, so they need different strengths.
C = {PIXELS: (1.0, 0.001, 0.01, 0.1, 10.0), WORDS: (10.0, 100.0, 1.0, 1000.0, 0.1)}
ALPHA = {PIXELS: (1.0, 0.1, 10.0, 100.0, 1000.0), WORDS: (1.0, 0.1, 10.0, 0.01, 100.0)}
TOKEN = r"\w+|[^\w\s]+"  # a word or a run of punctuation: every text that is not blank has one

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """A model of flat pixels, or of the words of a text, with one strength to tune.

    Attributes:
      name: its name in sentences (`logistic regression on pixels`).
      settings: the strengths worth trying, the default first; a single 0 where there is nothing to tune.
      fit: (x as an encoding's `flat` gives it, labels [n] or [n, classes] bool, setting) -> predict: x of m examples ->
        outputs [m, width] float32: scores of each class (their softmax is the predicted distribution), log odds of each
        label, or the predicted target. Deterministic.
    """

    name: str
    settings: tuple[float, ...]
    fit: Callable[[np.ndarray, np.ndarray, float], Predict]


def baselines(task: str, classes: int, *, features: str = PIXELS) -> tuple[Baseline, ...]:
    """The baselines of a task, the trivial one first.

    `classification`: `majority class` (outputs the log share of each class, so a tie goes to the lowest label) and
    `logistic regression on pixels` (setting: scikit-learn's `C`, the inverse strength of the L2 penalty).
    `multilabel`: `label prevalence` (outputs `log((k + 1/2) / (n - k + 1/2))` for a label that k of n examples have,
    finite for 0 and n too: Anscombe, 1956, doi:10.1093/biomet/43.3-4.461) and one such logistic regression a label; a
    label that all training examples have, or none, keeps its prevalence.
    `regression`: `training mean` and `ridge on pixels` (setting: `alpha`, the strength).

    The linear models standardise each pixel by its training mean and standard deviation; so they do with what an
    encoding makes of sounds, series and rows. For texts they are `... on TF-IDF` instead: of lower-case words and pairs
    of neighbours, `(1 + log count) (1 + log((1 + n) / (1 + df)))`, each text scaled to length 1, with vocabulary and
    frequencies of train alone.

    Args:
      task: `classification`, `multilabel` or `regression`.
      classes: number of classes of the data; 0 for regression.
      features: the encoding's word for what its `flat` gives; for texts `TF-IDF`.

    Raises:
      InputError: a task without simple baselines; from `fit`, a class without a training example.
    """
    if task not in _BASELINES:
        raise InputError(f"no simple baseline for task {task!r}{nearest(task, _BASELINES)}")
    return _BASELINES[task](classes, features)


def _classification(classes: int, inputs: str) -> tuple[Baseline, ...]:
    def majority(x: np.ndarray, labels: np.ndarray, setting: float) -> Predict:
        share = _class_counts(labels, classes) / len(labels)
        return lambda x: np.tile(np.log(share).astype(np.float32), (len(x), 1))

    def logistic(x: np.ndarray, labels: np.ndarray, setting: float) -> Predict:
        _class_counts(labels, classes)
        rows = _rows(x)
        decide = _logistic(rows(x), labels, setting)

        def predict(x: np.ndarray) -> np.ndarray:
            decision = decide(rows(x))
            if decision.ndim == 1:  # two classes: scikit-learn gives the logit of the second
                decision = np.stack([np.zeros_like(decision), decision], axis=1)
            return decision.astype(np.float32)

        return predict

    return (
        Baseline(name="majority class", settings=(0.0,), fit=majority),
        Baseline(name=f"logistic regression on {inputs}", settings=C.get(inputs, C[PIXELS]), fit=logistic),
    )


def _multilabel(classes: int, inputs: str) -> tuple[Baseline, ...]:
    def prevalence(x: np.ndarray, labels: np.ndarray, setting: float) -> Predict:
        odds = (labels.sum(0) + 0.5) / ((~labels).sum(0) + 0.5)
        return lambda x: np.tile(np.log(odds).astype(np.float32), (len(x), 1))

    def one_vs_rest(x: np.ndarray, labels: np.ndarray, setting: float) -> Predict:
        rows, constant = _rows(x), prevalence(x, labels, setting)
        fitted, varies = rows(x), labels.any(0) & ~labels.all(0)
        decide = {c: _logistic(fitted, labels[:, c], setting) for c in np.flatnonzero(varies)}

        def predict(x: np.ndarray) -> np.ndarray:
            outputs, fresh = constant(x), rows(x)
            for c, decision in decide.items():
                outputs[:, c] = decision(fresh)
            return outputs

        return predict

    return (
        Baseline(name="label prevalence", settings=(0.0,), fit=prevalence),
        Baseline(name=f"logistic regression on {inputs}", settings=C.get(inputs, C[PIXELS]), fit=one_vs_rest),
    )


def _regression(classes: int, inputs: str) -> tuple[Baseline, ...]:
    def mean(x: np.ndarray, labels: np.ndarray, setting: float) -> Predict:
        value = np.mean(labels, dtype=np.float64)
        return lambda x: np.full((len(x), 1), value, np.float32)

    def ridge(x: np.ndarray, labels: np.ndarray, setting: float) -> Predict:
        rows = _rows(x)
        fitted = rows(x)
        with _threads(fitted):
            # The tolerance applies to the iterations on sparse rows; dense ones are solved exactly.
            model = Ridge(alpha=setting, tol=1e-8).fit(fitted, labels.astype(np.float64))
        return lambda x: model.predict(rows(x))[:, None].astype(np.float32)

    return (
        Baseline(name="training mean", settings=(0.0,), fit=mean),
        Baseline(name=f"ridge on {inputs}", settings=ALPHA.get(inputs, ALPHA[PIXELS]), fit=ridge),
    )


_BASELINES = {"classification": _classification, "multilabel": _multilabel, "regression": _regression}
TASKS = tuple(_BASELINES)


def _class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    counts = np.bincount(labels, minlength=classes)
    if len(counts) != classes or not counts.all():
        raise InputError(f"expected training examples of labels 0..{classes - 1}, found {np.unique(labels).tolist()}")
    return counts


def _rows(x: np.ndarray) -> Callable[[np.ndarray], Any]:
    """Inputs -> rows for a linear model, by the statistics of x; float64, as float32 spoils ridge's normal equations.

    Pixels are standardised, texts become sparse TF-IDF.
    """
    if x.dtype == object:
        return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=TOKEN).fit(x).transform
    scaler = StandardScaler().fit(x.astype(np.float64))
    return lambda x: scaler.transform(x.astype(np.float64))


def _logistic(rows: Any, labels: np.ndarray, strength: float) -> Callable[[Any], np.ndarray]:
    """The decision function, not log probabilities: these are -inf where a probability underflows."""
    with _threads(rows), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline short of its optimum is still a baseline
        return LogisticRegression(C=strength, max_iter=10_000).fit(rows, labels).decision_function


def _threads(rows: Any) -> threadpool_limits:
    """Limits BLAS threads for sparse rows, which leave it only small products: more made it 40 times slower."""
    return threadpool_limits(1 if issparse(rows) else None)
