"""Simple baselines from pixels or words, which a transferred model has to beat.

`features` prepares a split, `baselines` lists a task's models, and `score` computes the task's own metrics.
None of them reads a split that is not passed to it:

    for baseline in baselines("classification", len(data.classes)):
        predict = baseline.fit(features(train, preprocessing), train.labels, baseline.settings[0])
        metrics = score(task, predict(features(val, preprocessing)), val.labels)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from jaxfer.data.encodings.spec import Preprocessing, TextPreprocessing
from jaxfer.data.loader import eval_batches
from jaxfer.data.split import Split
from jaxfer.errors import InputError, nearest
from jaxfer.task import Task

# A 32 x 32 RGB image. Beyond it a linear model of pixels gains little and costs memory and minutes.
MAX_FEATURES = 32 * 32 * 3
MAX_SIDE = 32

PIXELS, WORDS = "pixels", "TF-IDF"
# A TF-IDF row has length 1, a standardised one the square root of its width, so they need different strengths.
C = {PIXELS: (1.0, 0.001, 0.01, 0.1, 10.0), WORDS: (10.0, 100.0, 1.0, 1000.0, 0.1)}
ALPHA = {PIXELS: (1.0, 0.1, 10.0, 100.0, 1000.0), WORDS: (1.0, 0.1, 10.0, 0.01, 100.0)}
TOKEN = r"\w+|[^\w\s]+"  # a word or a run of punctuation: every text that is not blank has one
SEPARATOR = " ||| "  # between the texts of a pair; a token, so that no bigram reaches from one into the other

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """A model of flat pixels, or of the words of a text, with one strength to tune.

    Attributes:
      name: its name in sentences (`logistic regression on pixels`).
      settings: the strengths worth trying, the default first; a single 0 where there is nothing to tune.
      fit: (x as `features` gives it, labels [n] or [n, classes] bool, setting) -> predict: x of m examples -> outputs
        [m, width] float32: scores of each class (their softmax is the predicted distribution), log odds of each label,
        or the predicted target. Deterministic.
    """

    name: str
    settings: tuple[float, ...]
    fit: Callable[[np.ndarray, np.ndarray, float], Predict]


def baselines(task: str, classes: int, *, text: bool = False) -> tuple[Baseline, ...]:
    """The baselines of a task, the trivial one first.

    `classification`: `majority class` (outputs the log share of each class, so a tie goes to the lowest label) and
    `logistic regression on pixels` (setting: scikit-learn's `C`, the inverse strength of the L2 penalty).
    `multilabel`: `label prevalence` (outputs `log((k + 1/2) / (n - k + 1/2))` for a label that k of n examples have,
    finite for 0 and n too: Anscombe, 1956, doi:10.1093/biomet/43.3-4.461) and one such logistic regression a label; a
    label that all training examples have, or none, keeps its prevalence.
    `regression`: `training mean` and `ridge on pixels` (setting: `alpha`, the strength).

    The linear models standardise each pixel by its training mean and standard deviation. For texts they are `... on
    TF-IDF` instead: of lower-case words and pairs of neighbours, `(1 + log count) (1 + log((1 + n) / (1 + df)))`, each
    text scaled to length 1, with vocabulary and frequencies of train alone.

    Args:
      task: `classification`, `multilabel` or `regression`.
      classes: number of classes of the data; 0 for regression.
      text: whether the data are texts, or pairs of them.

    Raises:
      InputError: a task without simple baselines; from `fit`, a class without a training example.
    """
    if task not in _BASELINES:
        raise InputError(f"no simple baseline for task {task!r}{nearest(task, _BASELINES)}")
    return _BASELINES[task](classes, WORDS if text else PIXELS)


def features(split: Split, preprocessing: Preprocessing | TextPreprocessing) -> np.ndarray:
    """Every example's input as a baseline takes it: `pixels`, or whole texts (pairs joined), objects [n] of str."""
    if isinstance(preprocessing, TextPreprocessing):
        examples = (split.fetch(row) for row in range(len(split)))
        return np.array([text if isinstance(text, str) else SEPARATOR.join(text) for text in examples], object)
    return pixels(split, preprocessing)


def pixels(split: Split, preprocessing: Preprocessing) -> np.ndarray:
    """Every example's input as the model gets it, flat: float32 [n, features].

    Inputs of more than 3,072 values (32 x 32 RGB) are averaged down first, to at most 32 x 32 pixels by area: so a
    baseline for large images is one of their thumbnails.
    """
    height, width, channels = preprocessing.size
    shrink = height * width * channels > MAX_FEATURES
    to = (min(height, MAX_SIDE), min(width, MAX_SIDE)) if shrink else (height, width)
    rows, begin = np.empty((len(split), to[0] * to[1] * channels), np.float32), 0
    for batch in eval_batches(split, batch_size=min(32, len(split)), preprocessing=preprocessing):
        images = batch["image"][batch["mask"].astype(bool)]
        rows[begin : begin + len(images)] = (_averaged(images, to) if shrink else images).reshape(len(images), -1)
        begin += len(images)
    return rows


def score(task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{metric: value} of outputs [n, width] float32 on labels, as `evaluate_split` scores a model's."""
    outputs, labels = np.asarray(outputs, np.float32), np.asarray(labels, task.label_dtype)
    values = jax.device_get(task.scores(jnp.asarray(outputs), {"label": jnp.asarray(labels)}))
    metrics = {name: float(value.astype(np.float64).mean()) for name, value in values.items()}
    return metrics | (task.gathered(outputs, labels) if task.gathered is not None else {})


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
        Baseline(name=f"logistic regression on {inputs}", settings=C[inputs], fit=logistic),
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
        Baseline(name=f"logistic regression on {inputs}", settings=C[inputs], fit=one_vs_rest),
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
        Baseline(name=f"ridge on {inputs}", settings=ALPHA[inputs], fit=ridge),
    )


_BASELINES = {"classification": _classification, "multilabel": _multilabel, "regression": _regression}


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


def _averaged(images: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """[n, h, w, c] -> [n, *to, c]: each new pixel is the mean over its area, fractions of old pixels included."""
    rows, columns = (_area_weights(old, new) for old, new in zip(images.shape[1:3], to, strict=True))
    return np.einsum("ih,nhwc,jw->nijc", rows, images, columns, optimize=True).astype(np.float32)


def _area_weights(old: int, new: int) -> np.ndarray:
    """[new, old]: which share of each new pixel along one side lies on each old one."""
    edges, begin = np.arange(new + 1) * (old / new), np.arange(old)
    overlap = np.minimum(edges[1:, None], begin + 1) - np.maximum(edges[:-1, None], begin)
    return overlap.clip(0) * (new / old)
