"""A set of labels for each example: one sigmoid cross-entropy a label, and losses for rare labels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.task import Answer, Batch, Hparams, Mean, Task, labels, ranked
from jaxfer.tasks import imbalance

LOSSES = {
    "focal": {"gamma": (2.0, 0.0, math.inf)},
    "asymmetric": {"gamma_pos": (0.0, 0.0, math.inf), "gamma_neg": (4.0, 0.0, math.inf), "shift": (0.05, 0.0, 1.0)},
}


def task(*, loss: str | None = None, pos_weight: tuple[float, ...] | str | None = None) -> Task:
    """Independent labels, [batch, width] bool; the loss of an example is the mean over its labels.

    It is so with weights too, as in PyTorch's `BCEWithLogitsLoss`: nothing is divided by their sum. Counts, n examples
    with a label of N in all, are those of the examples that a stage trains on.

    Args:
      loss: None: cross-entropy. `focal`: each log-probability times (1 - p)^gamma, p that of the truth, hparam `gamma`
        (Lin et al., 2017, arXiv:1708.02002, eq. 4). `asymmetric`: (1 - p)^gamma_pos log(p) where an example has the
        label, else q^gamma_neg log(1 - q), q = max(p - shift, 0); hparams `gamma_pos`, `gamma_neg` and `shift`
        (Ben-Baruch et al., 2020, arXiv:2009.14119, sec. 2). The gradient goes through the powers too.
      pos_weight: of the loss where an example has the label. None: 1. `balanced`: (N - n) / n. Or the weights, in the
        order of the classes.

    Raises:
      InputError: an unknown name, a negative weight; from `outputs`, another number of weights than of classes.
    """
    numbers = imbalance.settings({}, loss=(loss, LOSSES), pos_weight=(pos_weight, {"balanced": {}}))
    imbalance.check_weights("pos_weight", pos_weight)
    given, weighted = pos_weight if isinstance(pos_weight, tuple) else None, pos_weight is not None
    plain = loss is None and not weighted
    return Task(
        outputs=lambda classes: _outputs(classes, pos_weight),
        target="classes",
        shapes=lambda n, outputs, fields: {
            "label": jax.ShapeDtypeStruct((n, outputs), "bool"),
            **({"pos_weight": jax.ShapeDtypeStruct((n, outputs), "float32")} if weighted else {}),
        },
        targets=functools.partial(imbalance.label_targets, given=given) if weighted else labels,
        of_labels=True,
        loss=(lambda outputs, batch, hparams: Mean(_cross_entropy(outputs, batch))) if plain else _loss(_TERMS[loss]),
        scores=_scores,
        gathered=_gathered,
        answer=_answer,
        monitor="macro_auprc",
        maximize=True,
        metrics={"label_accuracy": True, "macro_auroc": True, "macro_f1": True, "micro_f1": True},
        **numbers,
    )


def _outputs(classes: int, pos_weight: Any) -> int:
    if not classes:
        raise InputError(
            "task 'multilabel' needs sets of labels, the data has real targets; use --config.task.name=regression"
        )
    imbalance.check_number("pos_weight", pos_weight, classes)
    return classes


def _plain(outputs, hparams):
    return jax.nn.log_sigmoid(outputs), jax.nn.log_sigmoid(-outputs)


def _focal(outputs, hparams):
    present, absent = _plain(outputs, hparams)
    p, rest, gamma = jax.nn.sigmoid(outputs), jax.nn.sigmoid(-outputs), hparams["gamma"]
    return imbalance.power(rest, gamma) * present, imbalance.power(p, gamma) * absent


def _asymmetric(outputs, hparams):
    present, absent = _plain(outputs, hparams)
    p, shift = jax.nn.sigmoid(outputs), hparams["shift"]
    # log(1 - max(p - shift, 0)), with a gradient at shift 0 too, however large the logit is.
    easier = jnp.minimum(jnp.logaddexp(absent, jnp.log(shift)), 0.0)
    return (
        imbalance.power(jax.nn.sigmoid(-outputs), hparams["gamma_pos"]) * present,
        imbalance.power(jnp.maximum(p - shift, 0.0), hparams["gamma_neg"]) * easier,
    )


# {loss: (outputs, hparams) -> what stands for the log-probability of having each label, and of not having it}
_TERMS = {None: _plain, "focal": _focal, "asymmetric": _asymmetric}


def _loss(terms: Callable[..., tuple[jax.Array, jax.Array]]) -> Callable[..., Mean]:
    def loss(outputs: jax.Array, batch: Batch, hparams: Hparams) -> Mean:
        present, absent = terms(outputs.astype(jnp.float32), hparams)
        present = batch["pos_weight"] * present if "pos_weight" in batch else present
        return Mean(-jnp.where(batch["label"].astype(bool), present, absent).mean(-1))

    return loss


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
