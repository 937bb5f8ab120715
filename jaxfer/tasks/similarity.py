"""How alike two texts are, by the cosine of their embeddings, each read on its own; sentence-transformers' losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

from jaxfer.data.split import Split
from jaxfer.errors import InputError, nearest
from jaxfer.task import Answer, Mean, Task

LOSSES = ("cosine", "multiple_negatives")


def task(*, loss: str = "cosine", largest: float = 1.0) -> Task:
    """Both texts of a pair through one encoder (Reimers and Gurevych, 2019, arXiv:1908.10084).

    Metrics compare the cosine with the pair's score: `spearman`, `pearson`, and `loss`, the squared error of `cosine`
    with either loss, since that of `multiple_negatives` would depend on the batches of an evaluation.

    Args:
      loss: `cosine`: squared error of the cosine and score / largest (`CosineSimilarityLoss`); `multiple_negatives`:
        cross-entropy over the second texts of a batch, of which the pair's own is the right one, with the cosine times
        the hparam `scale` (20) as logits (`MultipleNegativesRankingLoss`; Henderson et al., 2017, arXiv:1705.00652):
        for pairs that are all alike, whatever their score.
      largest: the score of two texts that mean the same; 5 in STS-B.
    """
    if loss not in LOSSES:
        raise InputError(f"unknown config.task.loss {loss!r}{nearest(str(loss), LOSSES)}")
    if not largest > 0:
        raise InputError(f"expected config.task.largest to be positive, found {largest}")
    contrastive = loss == "multiple_negatives"

    def squared_error(outputs, batch):
        return Mean(jnp.square(cosine(outputs) - batch["label"] / largest))

    return Task(
        outputs=_outputs,
        head="embedding",
        target="value",
        apart=True,
        whole_batch=contrastive,
        shapes=lambda n, outputs, fields: {"label": jax.ShapeDtypeStruct((n,), "float32")},
        loss=_ranking if contrastive else lambda outputs, batch, hparams: squared_error(outputs, batch),
        scores=lambda outputs, batch: {"loss": squared_error(outputs, batch)},
        collect=lambda outputs, batch: cosine(outputs),
        gathered=_gathered,
        answer=lambda found, classes, pair: Answer(value=float(found)),
        monitor="spearman",
        maximize=True,
        metrics={"pearson": True},
        hparams={"scale": 20.0},  # `cosine` has no use for it
    )


def _outputs(classes: int) -> int:
    if classes:
        raise InputError(
            f"task 'similarity' needs a score a pair, the data has {classes} classes; use data.target=value or another "
            "task"
        )
    return 0


def _unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def cosine(outputs: jax.Array) -> jax.Array:
    """[batch, 2, width] -> float32 [batch], of the two embeddings of each pair."""
    return (_unit(outputs[:, 0]) * _unit(outputs[:, 1])).sum(-1)


def _ranking(outputs, batch, hparams):
    logits = hparams["scale"] * _unit(outputs[:, 0]) @ _unit(outputs[:, 1]).T
    return Mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(logits))))


def _gathered(found: np.ndarray, split: Split) -> dict[str, float]:
    """Both correlations of the cosine with the score; 0 where either is the same everywhere."""
    vary = np.ptp(found) > 0 and np.ptp(split.labels) > 0
    return {
        "spearman": float(stats.spearmanr(found, split.labels).statistic) if vary else 0.0,
        "pearson": float(stats.pearsonr(found, split.labels).statistic) if vary else 0.0,
    }
