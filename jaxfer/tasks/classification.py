"""One label of several: softmax cross-entropy with label smoothing, and losses for classes of unequal size."""

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
from jaxfer.tasks import _report, imbalance
from jaxfer.tasks._probabilities import of_logits

LOSSES = {
    "focal": {"gamma": (2.0, 0.0, math.inf)},
    "logit_adjusted": {"tau": (1.0, 0.0, math.inf)},
    "ldam": {"max_margin": (0.5, 0.0, math.inf), "scale": (30.0, 0.0, math.inf)},
}
RISING = ("balanced_accuracy", "macro_f1", "mcc", "auroc", "auprc", "macro_auroc", "macro_auprc", "top5_accuracy")
METRICS = {**dict.fromkeys((*RISING, "worst_group_accuracy"), True), "ece": False, "brier": False}
WEIGHTS = {"balanced": {}, "effective": {"class_beta": (0.999, 0.0, 1.0)}}


def task(*, loss: str | None = None, class_weights: tuple[float, ...] | str | None = None) -> Task:
    """Softmax classification. Hparam: `label_smoothing` in [0, 1) (Szegedy et al., 2015, arXiv:1512.00567, sec. 7).

    With class weights the loss is sum(w l) / sum(w) over the batch, PyTorch's mean: w is the weight of an example's
    class, l its smoothed loss (PyTorch weighs the smoothed part by each class's own weight). Slices and devices sum
    both. Counts, n of a class and N in all, are those of the examples that a stage trains on.

    Args:
      loss: None: cross-entropy. `focal`: each class's log-probability times (1 - p)^gamma, hparam `gamma` (Lin et al.,
        2017, arXiv:1708.02002, eq. 4). `logit_adjusted`: cross-entropy of logits + tau log(n / N), hparam `tau` (Menon
        et al., 2020, arXiv:2007.07314, eq. 10). `ldam`: cross-entropy of scale (logits - margin), where the true class
        has the margin `max_margin` (n_min / n)^(1/4) and the others 0; hparams `max_margin` and `scale` (Cao et al.,
        2019, arXiv:1906.07413, sec. 3.2, without deferred weights). Their 30 is for a normalised output layer; a plain
        one wants less.
      class_weights: None: 1. `balanced`: N / (k n), of k classes. `effective`: (1 - beta) / (1 - beta^n), hparam
        `class_beta` (Cui et al., 2019, arXiv:1901.05555, sec. 4). Or the weights, in the order of the classes.

    Raises:
      InputError: an unknown name, a negative weight; from `outputs`, another number of weights than of classes.
    """
    numbers = imbalance.settings({"label_smoothing": 0.0}, loss=(loss, LOSSES), class_weights=(class_weights, WEIGHTS))
    imbalance.check_weights("class_weights", class_weights)
    fields = imbalance.class_fields(loss, class_weights)
    given = class_weights if isinstance(class_weights, tuple) else None
    weights = imbalance.example_weights if class_weights is not None else None
    return Task(
        outputs=lambda classes: _outputs(classes, class_weights),
        target="class",
        shapes=lambda n, outputs, encoded: {
            "label": jax.ShapeDtypeStruct((n,), "int32"),
            **{name: jax.ShapeDtypeStruct((n, outputs) if name == "log_prior" else (n,), "float32") for name in fields},
        },
        targets=functools.partial(imbalance.class_targets, fields=fields, given=given) if fields else labels,
        of_labels=True,
        loss=_loss(_TERMS[loss], weights),
        weights=weights,
        scores=_scores,
        gathered=_gathered,
        counts=lambda outputs, split: _report.counts(outputs.argmax(-1), split),
        report=_report.report,
        answer=_answer,
        monitor="accuracy",
        maximize=True,
        metrics=METRICS,
        for_classes={"auroc": (2, 2), "auprc": (2, 2), **dict.fromkeys(("macro_auroc", "macro_auprc"), (3, None))}
        | {"top5_accuracy": (6, None)},
        **{**numbers, "limits": {"label_smoothing": (0.0, 1.0), **numbers["limits"]}},
    )


def _outputs(classes: int, class_weights: Any) -> int:
    if classes < 2:
        raise InputError(
            f"task 'classification' needs at least 2 classes, the data has {classes}; "
            "for real targets use --config.task.name=regression"
        )
    imbalance.check_number("class_weights", class_weights, classes)
    return classes


def _plain(outputs, batch, hparams):
    return jax.nn.log_softmax(outputs)


def _focal(outputs, batch, hparams):
    logp = jax.nn.log_softmax(outputs)
    return imbalance.power(-jnp.expm1(logp), hparams["gamma"]) * logp


def _logit_adjusted(outputs, batch, hparams):
    return jax.nn.log_softmax(outputs + hparams["tau"] * batch["log_prior"])


def _ldam(outputs, batch, hparams):
    margin = hparams["max_margin"] * batch["margin"][:, None] * jax.nn.one_hot(batch["label"], outputs.shape[-1])
    return jax.nn.log_softmax(hparams["scale"] * (outputs - margin))


# {loss: (outputs, batch, hparams) -> [batch, classes], what stands for the log-probability of each class}
_TERMS = {None: _plain, "focal": _focal, "logit_adjusted": _logit_adjusted, "ldam": _ldam}


def _loss(terms: Callable[..., jax.Array], weights: Callable[..., jax.Array] | None) -> Callable[..., Mean]:
    """The smoothed, weighted loss of an example: of its own class, and of the mean class."""

    def loss(outputs: jax.Array, batch: Batch, hparams: Hparams) -> Mean:
        smoothing, logp = hparams["label_smoothing"], terms(outputs.astype(jnp.float32), batch, hparams)
        nll = -jnp.take_along_axis(logp, batch["label"][:, None], axis=-1)[:, 0]
        each = (1 - smoothing) * nll - smoothing * logp.mean(-1)
        if weights is None:
            return Mean(each)
        weight = weights(batch, hparams)
        return Mean(weight * each, weight)

    return loss


def _scores(outputs, batch):
    label = batch["label"]
    nll = optax.softmax_cross_entropy_with_integer_labels(outputs.astype(jnp.float32), label)
    hit = outputs.argmax(-1) == label
    return {"loss": Mean(nll), "accuracy": Mean(hit.astype(jnp.float32))}


def _gathered(outputs: np.ndarray, split: Split) -> dict[str, float]:
    """Three numbers that an imbalanced split can't flatter, and those of the probabilities (`of_logits`).

    Where the split has groups, also the lowest accuracy of any.

    Balanced accuracy is the mean recall over the classes that occur. F1's mean is over the classes that occur or are
    predicted; the MCC is Gorodkin's for k classes (2004, doi:10.1016/j.compbiolchem.2004.09.006), 0 where either the
    labels or the predictions are all of one class.
    """
    predicted, labels = outputs.argmax(-1), split.labels
    # scikit-learn has these three; importing it takes half as long again as everything else that a run imports.
    hits, true, claimed = (
        np.bincount(of, minlength=outputs.shape[-1]) for of in (labels[predicted == labels], labels, predicted)
    )
    occur, either, n = true > 0, true + claimed > 0, len(labels)
    spread = float(n**2 - true @ true) * float(n**2 - claimed @ claimed)
    metrics = {
        "balanced_accuracy": float(np.mean(hits[occur] / true[occur])),
        "macro_f1": float(np.mean(2 * hits[either] / (true + claimed)[either])),
        "mcc": float(n * hits.sum() - true @ claimed) / math.sqrt(spread) if spread else 0.0,
        **of_logits(outputs, labels),
    }
    if split.groups is not None:
        metrics["worst_group_accuracy"] = min(hits / n for n, hits in _report.by_group(predicted, split).values())
    return metrics


def _answer(row: np.ndarray, classes: Sequence[str], example: Any) -> Answer:
    row = row.astype(np.float64)
    chances = np.exp(row - row.max())
    chances /= chances.sum()
    return Answer(labels=(classes[int(row.argmax())],), probabilities=ranked(chances, classes))
