"""Temperature scaling: the number by which a classifier's outputs are divided, so that its confidence is its accuracy.

Guo et al., 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 4.2: the temperature at which
the labels of val are likeliest. The predicted class stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from jaxfer.errors import InputError
from jaxfer.parallel.placement import placement
from jaxfer.tasks._probabilities import of_logits
from jaxfer.training.evaluation import check_classes, evaluate_split, reopened

TASK = "classification"
LEAST, MOST = 0.01, 100.0
TOLD = ("nll", "ece", "brier")


class Calibration(NamedTuple):
    """What a temperature changes.

    Attributes:
      temperature: that fits val; above 1 where the classifier is overconfident.
      before: {`nll` (nats), `ece`, `brier`: value} on the split as it is.
      after: with the outputs divided.
    """

    temperature: float
    before: dict[str, float]
    after: dict[str, float]


def calibrate(
    run: str | epath.Path,
    *,
    split: str = "val",
    checkpoint: str = "result",
    overrides: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fits a temperature to a finished classifier's outputs on val.

    Args:
      run: its folder.
      split: that is scored; on val itself `after` is the best that any temperature does there.
      checkpoint: as of `evaluate`.
      overrides: likewise; val is that of the data they name.

    Raises:
      InputError: as `evaluate`; another task than classification; a val split that no temperature fits best.
    """
    finished, experiment, data = reopened(run, split, checkpoint, overrides or {})
    check_classes(finished, data)
    task = finished.stage.config.task or experiment.task.name
    if task != TASK:
        raise InputError(f"--temperature: expected the task {TASK!r}, found {task!r}; leave it out")
    where, spec = placement(experiment.parallel), finished.stage.spec
    state = where.place(spec, finished.state.replace(hparams={}, key=None, opt_state=()))

    def outputs(name: str) -> np.ndarray:
        read = data.splits[name]
        return evaluate_split(spec, state, read, where, experiment.run.eval_batch_size).collected.astype(np.float64)

    fitted = outputs("val")
    if not np.isfinite(fitted).all():
        raise InputError(f"{run}: its outputs on val are not finite; look at its metrics.jsonl")
    found = temperature(fitted, data.splits["val"].labels)
    if found is None:
        why = "its outputs there are right without exception, or say nothing of the labels"
        raise InputError(f"{run}: no temperature is best on val: {why}; hold out more examples for val")
    logits, labels = fitted if split == "val" else outputs(split), data.splits[split].labels
    return Calibration(found, scores(logits, labels), scores(logits / found, labels))


def temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """The temperature at which the labels are likeliest; None where none between LEAST and MOST is.

    The negative log-likelihood is convex in 1 / T, so it has one minimum at most.

    Args:
      logits: [n, classes].
      labels: int [n].
    """

    def nll(log: float) -> float:
        return likelihood(logits * math.exp(-log), labels)

    bounds = math.log(LEAST), math.log(MOST)
    found = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return math.exp(found.x) if found.fun < min(map(nll, bounds)) else None


def likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean negative log-likelihood, in nats."""
    return -float(log_softmax(logits, axis=-1)[np.arange(len(labels)), labels].mean())


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{of TOLD: value}."""
    found = {"nll": likelihood(logits, labels), **of_logits(logits, labels)}
    return {name: found[name] for name in TOLD}
