"""JSD, an add-on: predictions of an image and of two augmentations of it are to agree, as AugMix has it.

Hendrycks et al., 2020, "AugMix", arXiv:1912.02781, eq. 2: the loss of the image plus `weight` (12 there) times the
Jensen-Shannon divergence of the three distributions, the mean of KL(p || m) to their mean m. The logarithm of m is
bounded below by that of 1e-7, as in their code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import SAME, Method
from jaxfer.methods._based import check_main
from jaxfer.models.port import Port

VIEWS = ("view_1", "view_2")


def add(method: Method, port: Port) -> Method:
    """The method on three views of each image. Hparam: `jsd_weight`.

    Reads the streams `view_1` and `view_2`, the same examples augmented anew: each is
    `dict(rows="same", augment=("augmix",))`.
    """
    check_main("jsd", method)
    if method.tasks and "classification" not in method.tasks:
        learns = f"the method learns {' or '.join(method.tasks)}"
        raise InputError(f"add-on jsd compares classes, {learns}; remove it from adds")

    def loss(ctx, outputs):
        value, logged = method.loss(ctx, outputs)
        apart = divergence([outputs, *(ctx.streams[name].outputs for name in VIEWS)])
        return value + ctx.hparams["jsd_weight"] * apart, {**logged, "jsd": apart}

    return dataclasses.replace(
        method,
        loss=loss,
        streams={**method.streams, **dict.fromkeys(VIEWS, SAME)},
        tasks=("classification",),
        hparams={**method.hparams, "jsd_weight": (12.0, (1.0, 12.0))},
        limits={**method.limits, "jsd_weight": (0.0, float("inf"))},
    )


def divergence(logits: Sequence[jax.Array]) -> jax.Array:
    """[]: the Jensen-Shannon divergence of the softmax of these, [batch, classes] each, in nats; its mean over them."""
    shares = jax.nn.softmax(jnp.stack(logits).astype(jnp.float32))
    logs = jax.nn.log_softmax(jnp.stack(logits).astype(jnp.float32))
    mixed = jnp.log(jnp.clip(shares.mean(0), 1e-7, 1.0))
    return (shares * (logs - mixed)).sum(-1).mean()
