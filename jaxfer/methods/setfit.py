"""SetFit's first stage: pairs of examples, of one class or of two, so that few labels make much to learn from.

Tunstall et al., 2022, "Efficient Few-Shot Learning Without Prompts", arXiv:2209.11055, section 3: the cosine of two
embeddings is regressed on 1 for a pair of one class and on 0 for others, with as many pairs of both kinds. The second
stage is a probe (`options.fit=lbfgs`) on the embeddings. The paper and its code sample partners of each example from
all of them beforehand; here they are drawn step by step (`config.stream.partner.rows=pairs`). `pairs=batch` learns all
pairs of a batch, each kind with half of the weight, which takes one pass for many pairs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.method import FROZEN, PAIRS, Method
from jaxfer.methods import _domains
from jaxfer.methods._views import unit_length
from jaxfer.models.chain import check_choice
from jaxfer.models.port import FEATURES, Port

FORMS = ("sampled", "batch")


def method(port: Port, *, pairs: str = "sampled") -> Method:
    """Group: `backbone`; the head is left to the next stage. Stream, of sampled pairs: `partner`.

    Args:
      port: the model.
      pairs: `sampled`, each example with the one in its place in the stream; or `batch`, all of a batch.
    """
    check_choice("options.pairs", pairs, FORMS)
    sampled = pairs == "sampled"

    def init(params, key, given):
        _domains.check_vectors("setfit", port)
        return params, {}

    def loss(ctx, outputs):
        own, labels = ctx.taps[FEATURES].astype(jnp.float32), ctx.batch["label"]
        if not sampled:
            return of_batch(own, labels), {}
        other = ctx.streams["partner"].taps[FEATURES].astype(jnp.float32)
        return of_pairs(own, other, labels == ctx.batch["partner"]["label"]), {}

    return Method(
        rules=((f"{port.head}/.*", FROZEN), (".*", "backbone")),
        init=init,
        taps=(FEATURES,),
        tasks=("classification",),
        streams={"partner": PAIRS} if sampled else {},
        whole_batch=not sampled,
        by_examples=sampled,
        loss=loss,
        hparams={"lr": (3e-5, (1e-5, 3e-5, 1e-4))},
    )


def of_pairs(first: jax.Array, second: jax.Array, same: jax.Array) -> jax.Array:
    """The mean of (cosine - same)^2.

    Args:
      first: features, [pairs, width].
      second: likewise.
      same: whether both are of one class, bool [pairs].
    """
    cosines = (unit_length(first) * unit_length(second)).sum(-1)
    return jnp.square(cosines - same).mean()


def of_batch(features: jax.Array, labels: jax.Array) -> jax.Array:
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
