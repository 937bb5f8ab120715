"""A set of labels for each example: one sigmoid cross-entropy a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.task import Answer, Mean, Task, ranked


def task() -> Task:
    """Independent labels, [batch, width] bool; the loss of an example is the mean over its labels."""
    return Task(
        outputs=_outputs,
        target="classes",
        shapes=lambda n, outputs, fields: {"label": jax.ShapeDtypeStruct((n, outputs), "bool")},
        loss=lambda outputs, batch, hparams: Mean(_cross_entropy(outputs, batch)),
        scores=_scores,
        gathered=_gathered,
        answer=_answer,
        monitor="macro_auprc",
        maximize=True,
        metrics={"label_accuracy": True, "macro_auroc": True, "macro_f1": True, "micro_f1": True},
    )


def _outputs(classes: int) -> int:
    if not classes:
        raise InputError(
            "task 'multilabel' needs sets of labels, the data has real targets; use --config.task.name=regression"
        )
    return classes


def _cross_entropy(outputs, batch):
    targets = batch["label"].astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(outputs.astype(jnp.float32), targets).mean(-1)


def _scores(outputs, batch):
    right = (outputs > 0) == batch["label"].astype(bool)
    right = right.astype(jnp.float32).mean(-1)
    return {"loss": Mean(_cross_entropy(outputs, batch)), "label_accuracy": Mean(right)}


def _gathered(outputs: np.ndarray, split: Split) -> dict[str, float]:
    """Means over labels of areas under the curves, and F1 at a probability of one half.

    A label without a positive in the split has no such area: it is left out of the macro means and counted in
    `labels_left_out`. One without a negative is left out of macro AUROC alone. A mean of nothing is 0.
    """
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score  # most of a second, once it is needed

    labels, chosen = split.labels.astype(bool), outputs > 0
    with_positives = np.flatnonzero(labels.any(0))
    both = [i for i in with_positives if not labels[:, i].all()]
    return {
        "macro_auprc": _mean([average_precision_score(labels[:, i], outputs[:, i]) for i in with_positives]),
        "macro_auroc": _mean([roc_auc_score(labels[:, i], outputs[:, i]) for i in both]),
        "macro_f1": _mean([f1_score(labels[:, i], chosen[:, i], zero_division=0) for i in with_positives]),
        "micro_f1": float(f1_score(labels.ravel(), chosen.ravel(), zero_division=0)),
        "labels_left_out": float(labels.shape[1] - len(with_positives)),
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _answer(row: np.ndarray, classes: Sequence[str], example: Any) -> Answer:
    chances = 1 / (1 + np.exp(-row.astype(np.float64)))
    chosen = tuple(name for name, chance in zip(classes, chances, strict=True) if chance >= 0.5)
    return Answer(labels=chosen, probabilities=ranked(chances, classes))
