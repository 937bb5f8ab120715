"""SHOT: a source's network adapts to the target alone, under its own head, which is frozen.

Liang et al., 2020, "Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised Domain
Adaptation", arXiv:2002.08546, eqs. 3 to 7: the mean entropy of the predictions, less the entropy of their mean, plus
`pseudo` * CE with pseudo-labels: the class whose centroid is nearest in cosine, features having a 1 appended. The
centroids are means of features weighed by the predictions, then once more by the classes these give. As in the authors'
code the logarithm is of 1e-5 more.

The paper computes centroids and labels of the whole target at intervals. Here the sums they are made of are kept: each
step multiplies them by `memory` and adds its batch, in evaluation mode, so that centroids are of the last
1 / (1 - memory) batches or so, each at the parameters of its step, and labels are made anew for every batch. The
paper's bottleneck and weight-normalised head are not added: the model is what the source trained, so `config.init`
names its run. The labelled examples do not pass through the network.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxfer.method import FROZEN, Method
from jaxfer.methods import _domains
from jaxfer.models.port import FEATURES, Port


def method(port: Port) -> Method:
    """Group: `backbone`. Reads the stream `target`. Hparams: `pseudo`, `memory`."""

    def init(params, key, given):
        _domains.check_vectors("shot", port)
        sums = {"sums": jnp.zeros((port.outputs, port.features[0] + 1)), "counts": jnp.zeros(port.outputs)}
        return params, {"soft": sums, "hard": sums}

    def passed(ctx):
        """(features with a 1 appended, of length 1; chances) of the target's batch in evaluation mode."""
        found = ctx.forward(ctx.params, other=ctx.batch["target"], taps=(FEATURES,))
        found = jax.lax.stop_gradient((found.taps[FEATURES], found.outputs))
        features, outputs = (x.astype(jnp.float32) for x in found)
        return extended(features), jax.nn.softmax(outputs)

    def loss(ctx, outputs):
        features, chances = passed(ctx)
        labels = nearest(features, centroids(ctx.extra, features, chances, ctx.hparams["memory"])["hard"])
        own = ctx.streams["target"].outputs.astype(jnp.float32)
        pseudo = optax.softmax_cross_entropy_with_integer_labels(own, labels).mean()
        unsure, spread = information(own)
        logged = {"pseudo_loss": pseudo, "entropy": unsure, "diversity": spread}
        return unsure - spread + ctx.hparams["pseudo"] * pseudo, logged

    return Method(
        rules=((f"{port.head}/.*", FROZEN), (".*", "backbone")),
        init=init,
        taps=(FEATURES,),
        streams=_domains.STREAMS,
        main=False,
        loss=loss,
        update=lambda ctx, extra: centroids(extra, *passed(ctx), ctx.hparams["memory"]),
        tasks=("classification",),
        whole_batch=True,
        hparams={
            "lr": (1e-4, (1e-5, 1e-4, 1e-3)),
            "pseudo": (0.3, (0.0, 0.1, 0.3)),
            "memory": (0.99, (0.9, 0.99)),
        },
        limits={"memory": (0.0, 1.0)},
    )


def information(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean entropy of the predictions, entropy of their mean) of logits [batch, classes]."""
    chances = jax.nn.softmax(logits)
    return _domains.entropies(chances).mean(), _domains.entropies(chances.mean(0, keepdims=True))[0]


def extended(features: jax.Array) -> jax.Array:
    """[n, width] -> [n, width + 1], of length 1."""
    features = jnp.concatenate([features, jnp.ones((len(features), 1), features.dtype)], axis=1)
    return features / jnp.linalg.norm(features, axis=1, keepdims=True)


def centroids(kept: dict, features: jax.Array, chances: jax.Array, memory: jax.Array | float) -> dict:
    """What is kept after another batch: the sums that soft centroids are made of, and those of hard ones."""

    def added(to, weights):
        return {
            "sums": memory * to["sums"] + weights.T @ features,
            "counts": memory * to["counts"] + weights.sum(0),
        }

    soft = added(kept["soft"], chances)
    chosen = jax.nn.one_hot(nearest(features, soft), chances.shape[1], dtype=features.dtype)
    return {"soft": soft, "hard": added(kept["hard"], chosen)}


def nearest(features: jax.Array, kept: dict) -> jax.Array:
    """[n]: the class whose centroid is nearest in cosine; a class that no example had is none's."""
    means = kept["sums"] / (kept["counts"][:, None] + 1e-8)
    cosines = features @ (means / jnp.maximum(jnp.linalg.norm(means, axis=1, keepdims=True), 1e-12)).T
    return jnp.where(kept["counts"] > 0, cosines, -jnp.inf).argmax(1)
