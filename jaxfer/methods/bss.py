"""Batch spectral shrinkage: the smallest singular values of a batch's features are suppressed.

Chen et al., 2019, "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer
Learning", NeurIPS, eq. 7: loss + eta * (sum of the squares of the `smallest` k singular values of F), where F is the
[batch, width] matrix of what the output layer reads.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method, task_loss
from jaxfer.models.port import FEATURES, Port


def method(port: Port, *, smallest: int = 1) -> Method:
    """Groups: `head`, `backbone`. Hparam: `eta`. `smallest`: how many singular values are suppressed (k)."""
    if smallest < 1:
        raise InputError(f"bss: expected smallest >= 1 singular values, found {smallest}")

    def loss(ctx, outputs):
        value, metrics = task_loss(ctx, outputs)
        features = ctx.taps[FEATURES].astype(jnp.float32)
        penalty = ctx.hparams["eta"] * shrinkage(features.reshape(-1, features.shape[-1]), smallest)
        return value + penalty, {**metrics, "penalty": penalty}

    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        taps=(FEATURES,),
        whole_batch=True,
        loss=loss,
        hparams={"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)), "eta": (1e-3, (1e-4, 1e-3, 1e-2))},
    )


def shrinkage(features: jax.Array, smallest: int = 1) -> jax.Array:
    """[]: the sum of the squares of the `smallest` singular values of features [batch, width], in their own type."""
    # Squares of singular values are eigenvalues of the smaller Gram matrix; their gradient stays finite at zero.
    wide = features.shape[0] <= features.shape[1]
    gram = features @ features.T if wide else features.T @ features
    return jnp.linalg.eigvalsh(gram)[:smallest].sum()  # ascending
