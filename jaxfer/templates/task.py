"""__NAME__: classification with the focal loss (Lin et al., 2017, arXiv:1708.02002, eq. 4).

A task says what outputs mean: the head's width, a loss and scores for each example. `jaxfer.task.Task` describes every
field.
"""

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.task import Mean, Task


def task():
    """Hparam: `gamma`, which turns the weight of easy examples down; 0 is cross-entropy."""
    return Task(
        outputs=_outputs,
        target="class",  # the kind of column that it learns
        shapes=lambda n, outputs, fields: {"label": jax.ShapeDtypeStruct((n,), "int32")},
        loss=_loss,
        scores=_scores,
        monitor="accuracy",
        maximize=True,
        hparams={"gamma": 2.0},  # --config.task.gamma=1
        limits={"gamma": (0.0, 10.0)},
    )


def _outputs(classes):
    if classes < 2:
        raise InputError(f"task '__NAME__' needs at least 2 classes, the data has {classes}; use another task")
    return classes


def _log_likelihood(outputs, batch):
    logp = jax.nn.log_softmax(outputs.astype(jnp.float32))
    return jnp.take_along_axis(logp, batch["label"][:, None], axis=-1)[:, 0]


def _loss(outputs, batch, hparams):  # one value an example
    logp = _log_likelihood(outputs, batch)
    return Mean(-((1 - jnp.exp(logp)) ** hparams["gamma"]) * logp)


def _scores(outputs, batch):  # {metric: its mean over a split}
    hit = outputs.argmax(-1) == batch["label"]
    return {"loss": Mean(-_log_likelihood(outputs, batch)), "accuracy": Mean(hit.astype(jnp.float32))}
