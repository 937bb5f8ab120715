"""One label of several: softmax cross-entropy with label smoothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.task import Answer, Mean, Task, ranked
from jaxfer.tasks import _report
from jaxfer.tasks._probabilities import of_logits


def task() -> Task:
    """Softmax classification. Hparam: `label_smoothing` in [0, 1) (Szegedy et al., 2015, arXiv:1512.00567, sec. 7)."""
    return Task(
        outputs=_outputs,
        target="class",
        shapes=lambda n, outputs, fields: {"label": jax.ShapeDtypeStruct((n,), "int32")},
        loss=_loss,
        scores=_scores,
        gathered=_gathered,
        counts=lambda outputs, split: _report.counts(outputs.argmax(-1), split),
        report=_report.report,
        answer=_answer,
        monitor="accuracy",
        maximize=True,
        hparams={"label_smoothing": 0.0},
        limits={"label_smoothing": (0.0, 1.0)},
    )


def _outputs(classes: int) -> int:
    if classes < 2:
        raise InputError(
            f"task 'classification' needs at least 2 classes, the data has {classes}; "
            "for real targets use --config.task.name=regression"
        )
    return classes


def _loss(outputs, batch, hparams):
    smoothing, logp = hparams["label_smoothing"], jax.nn.log_softmax(outputs.astype(jnp.float32))
    nll = -jnp.take_along_axis(logp, batch["label"][:, None], axis=-1)[:, 0]
    return Mean((1 - smoothing) * nll - smoothing * logp.mean(-1))


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
