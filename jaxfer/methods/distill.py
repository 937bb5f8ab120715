"""Distillation: the model learns the outputs of a trained teacher beside the labels.

Hinton et al., 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2:
(1 - alpha) * loss + alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch. The factor
T^2 keeps the size of the gradient, which falls with 1 / T^2, so that alpha means the same at every temperature. The
teacher sees the student's examples, augmented alike, and computes as in evaluation. Of several teachers the mean of
their softmax at T is taught (the paper's ensemble, whose arithmetic mean this is).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method, task_loss
from jaxfer.models.port import Port


def method(port: Port, *, teachers: tuple[str, ...] = ("teacher",)) -> Method:
    """Groups: `head`, `backbone`. Hparams: `temperature` (T), `alpha`. Networks: `config.networks.NAME` of `teachers`.

    Args:
      port: the model.
      teachers: names of the networks.
    """
    if not teachers or len(set(teachers)) != len(teachers):
        raise InputError(f"options.teachers: expected one name or several different ones, found {teachers}")

    def loss(ctx, outputs):
        value, metrics = task_loss(ctx, outputs)
        temperature, alpha = ctx.hparams["temperature"], ctx.hparams["alpha"]
        taught = (ctx.others[name](ctx.batch).outputs for name in teachers)
        *wanted, given = (jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (*taught, outputs))
        wanted = mean(wanted)
        divergence = jnp.mean(jnp.sum(jnp.exp(wanted) * (wanted - given), -1))
        total = (1 - alpha) * value + alpha * temperature**2 * divergence
        return total, {**metrics, "divergence": divergence}

    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        others=teachers,
        loss=loss,
        tasks=("classification",),
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "temperature": (4.0, (1.0, 2.0, 4.0, 8.0)),
            "alpha": (0.5, (0.1, 0.5, 0.9)),
        },
    )


def mean(logs: list[jax.Array]) -> jax.Array:
    """The logarithm of the mean of these probabilities, given by theirs."""
    return logs[0] if len(logs) == 1 else jax.nn.logsumexp(jnp.stack(logs), axis=0) - math.log(len(logs))
