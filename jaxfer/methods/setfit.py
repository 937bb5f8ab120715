"""SetFit's first stage: examples of a class are drawn together and others apart, so that few labels make many pairs.

Tunstall et al., 2022, "Efficient Few-Shot Learning Without Prompts", arXiv:2209.11055, section 3: the cosine of two
embeddings is regressed on 1 for a pair of one class and on 0 for others, with equal weight of both kinds. The second
stage is a probe (`options.fit=lbfgs`) on the embeddings. The paper samples R pairs of each kind for each class
beforehand; here the pairs are all those of a batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.method import FROZEN, Method
from jaxfer.methods import _domains
from jaxfer.methods._views import unit_length
from jaxfer.models.port import FEATURES, Port


def method(port: Port) -> Method:
    """Group: `backbone`; the head is left to the next stage."""

    def init(params, key, given):
        _domains.check_vectors("setfit", port)
        return params, {}

    def loss(ctx, outputs):
        return pairs(ctx.taps[FEATURES].astype(jnp.float32), ctx.batch["label"]), {}

    return Method(
        rules=((f"{port.head}/.*", FROZEN), (".*", "backbone")),
        init=init,
        taps=(FEATURES,),
        tasks=("classification",),
        whole_batch=True,
        loss=loss,
        hparams={"lr": (3e-5, (1e-5, 3e-5, 1e-4))},
    )


def pairs(features: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean over pairs of one class of (1 - cosine)^2, and over other pairs of cosine^2, half of each.

    Args:
      features: [batch, width].
      labels: [batch].
    """
    unit = unit_length(features)
    cosines, same = unit @ unit.T, labels[:, None] == labels
    apart = ~jnp.eye(len(labels), dtype=bool)
    kinds = ((same & apart, 1 - cosines), (~same, cosines))
    return sum(jnp.square(error).sum(where=of) / jnp.maximum(of.sum(), 1) for of, error in kinds) / 2
