"""Distillation: the model learns the outputs of a trained teacher beside the labels.

Hinton et al., 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2:
(1 - alpha) * loss + alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch. The factor
T^2 keeps the size of the gradient, which falls with 1 / T^2, so that alpha means the same at every temperature. The
teacher sees the student's examples, augmented alike, and computes as in evaluation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.method import Method, task_loss
from jaxfer.models.port import Port


def method(port: Port) -> Method:
    """Groups: `head`, `backbone`. Hparams: `temperature` (T), `alpha`. Network: `config.networks.teacher`."""

    def loss(ctx, outputs):
        value, metrics = task_loss(ctx, outputs)
        temperature, alpha = ctx.hparams["temperature"], ctx.hparams["alpha"]
        taught, _, _ = ctx.others["teacher"](ctx.batch)
        wanted, given = (jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (taught, outputs))
        divergence = jnp.mean(jnp.sum(jnp.exp(wanted) * (wanted - given), -1))
        total = (1 - alpha) * value + alpha * temperature**2 * divergence
        return total, {**metrics, "divergence": divergence}

    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        others=("teacher",),
        loss=loss,
        tasks=("classification",),
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "temperature": (4.0, (1.0, 2.0, 4.0, 8.0)),
            "alpha": (0.5, (0.1, 0.5, 0.9)),
        },
    )
