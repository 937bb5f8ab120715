"""Simple baselines from pixels: what a transferred model has to beat before its score means anything.

For a split there is `pixels`, for a task `baselines`, and `score` judges their outputs by the task's own metrics. None
of them ever sees a split that it was not handed:

    for baseline in baselines("classification", len(data.classes)):
        predict = baseline.fit(pixels(train, preprocessing), train.labels, baseline.settings[0])
        metrics = score(task, predict(pixels(val, preprocessing)), val.labels)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxfer.data.dataset import Split
from jaxfer.data.loader import eval_batches
from jaxfer.errors import InputError, nearest
from jaxfer.models.port import Preprocessing
from jaxfer.task import Task

# A 32 x 32 RGB image. Beyond it a linear model of pixels gains little and costs memory and minutes.
MAX_FEATURES = 32 * 32 * 3
MAX_SIDE = 32

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """A model of flat pixels with one strength to tune.

    Attributes:
      name: as sentences call it (`logistic regression on pixels`).
      settings: the strengths worth trying, the default first; a single 0 where there is nothing to tune.
      fit: (x [n, features] float32, labels [n], setting) -> predict: x [m, features] -> outputs [m, width] float32,
        scores of each class (their softmax is the predicted distribution) or the predicted target. Deterministic.
    """

    name: str
    settings: tuple[float, ...]
    fit: Callable[[np.ndarray, np.ndarray, float], Predict]


def baselines(task: str, classes: int) -> tuple[Baseline, ...]:
    """The baselines of a task, the trivial one first.

    `classification`: `majority class` (outputs the log share of each class, so a tie goes to the lowest label) and
    `logistic regression on pixels` (setting: scikit-learn's `C`, the inverse strength of the L2 penalty).
    `regression`: `training mean` and `ridge on pixels` (setting: `alpha`, the strength). Both linear models
    standardise each pixel by its training mean and standard deviation.

    Args:
      task: `classification` or `regression`.
      classes: number of classes of the data; 0 for regression.

    Raises:
      InputError: a task without simple baselines; from `fit`, a class without a training example.
    """
    if task not in _BASELINES:
        raise InputError(f"no simple baseline for task {task!r}{nearest(task, _BASELINES)}")
    return _BASELINES[task](classes)


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
    """{metric: value} of outputs [n, width] float32 on labels [n]: what `evaluate_split` gives for a model's."""
    outputs, labels = np.asarray(outputs, np.float32), np.asarray(labels, task.label_dtype)
    values = jax.device_get(task.scores(jnp.asarray(outputs), {"label": jnp.asarray(labels)}))
    metrics = {name: float(value.astype(np.float64).mean()) for name, value in values.items()}
    return metrics | (task.gathered(outputs, labels) if task.gathered is not None else {})


def _classification(classes: int) -> tuple[Baseline, ...]:
    def majority(x: np.ndarray, labels: np.ndarray, setting: float) -> Predict:
        share = _class_counts(labels, classes) / len(labels)
        return lambda x: np.tile(np.log(share).astype(np.float32), (len(x), 1))

    def logistic(x: np.ndarray, labels: np.ndarray, setting: float) -> Predict:
        _class_counts(labels, classes)
        model = _fitted(LogisticRegression(C=setting, max_iter=10_000), x, labels)

        def predict(x: np.ndarray) -> np.ndarray:
            # Not predict_log_proba, which is -inf where a probability underflows.
            decision = model.decision_function(x.astype(np.float64))
            if decision.ndim == 1:  # two classes: scikit-learn gives the logit of the second
                decision = np.stack([np.zeros_like(decision), decision], axis=1)
            return decision.astype(np.float32)

        return predict

    return (
        Baseline(name="majority class", settings=(0.0,), fit=majority),
        Baseline(name="logistic regression on pixels", settings=(1.0, 0.001, 0.01, 0.1, 10.0), fit=logistic),
    )


def _regression(classes: int) -> tuple[Baseline, ...]:
    def mean(x: np.ndarray, labels: np.ndarray, setting: float) -> Predict:
        value = np.mean(labels, dtype=np.float64)
        return lambda x: np.full((len(x), 1), value, np.float32)

    def ridge(x: np.ndarray, labels: np.ndarray, setting: float) -> Predict:
        model = _fitted(Ridge(alpha=setting), x, labels.astype(np.float64))
        return lambda x: model.predict(x.astype(np.float64))[:, None].astype(np.float32)

    return (
        Baseline(name="training mean", settings=(0.0,), fit=mean),
        Baseline(name="ridge on pixels", settings=(1.0, 0.1, 10.0, 100.0, 1000.0), fit=ridge),
    )


_BASELINES = {"classification": _classification, "regression": _regression}


def _class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    counts = np.bincount(labels, minlength=classes)
    if len(counts) != classes or not counts.all():
        raise InputError(f"expected training examples of labels 0..{classes - 1}, found {np.unique(labels).tolist()}")
    return counts


def _fitted(model: BaseEstimator, x: np.ndarray, labels: np.ndarray) -> Pipeline:
    """Standardised by x's own mean and deviation; in float64, as float32 spoils ridge's normal equations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline short of its optimum is still a baseline
        return make_pipeline(StandardScaler(), model).fit(x.astype(np.float64), labels)


def _averaged(images: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """[n, h, w, c] -> [n, *to, c]: each new pixel is the mean over its area, fractions of old pixels included."""
    rows, columns = (_area_weights(old, new) for old, new in zip(images.shape[1:3], to, strict=True))
    return np.einsum("ih,nhwc,jw->nijc", rows, images, columns, optimize=True).astype(np.float32)


def _area_weights(old: int, new: int) -> np.ndarray:
    """[new, old]: which share of each new pixel along one side lies on each old one."""
    edges, begin = np.arange(new + 1) * (old / new), np.arange(old)
    overlap = np.minimum(edges[1:, None], begin + 1) - np.maximum(edges[:-1, None], begin)
    return overlap.clip(0) * (new / old)
