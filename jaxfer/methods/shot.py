"""SHOT: a source's network adapts to the target alone, under its own head, which is frozen.

Liang et al., 2020, "Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised Domain
Adaptation", arXiv:2002.08546, eqs. 3 to 7: the mean entropy of the predictions, less the entropy of their mean, plus
`pseudo` * CE with pseudo-labels: the class whose centroid is nearest in cosine, features having a 1 appended. The
centroids are means of features weighed by the predictions, then once more by the classes these give. As in the authors'
code the logarithm is of 1e-5 more.

As in the paper, centroids are of the whole target, by a pass over it in evaluation mode before the first step and
`passes` times in all, as the authors' code does it once an epoch of 15. The labels of a step are those of the network
and the centroids of the last pass, whose parameters are kept: the paper's, of the same image, and of its augmented view
where `config.stream.target` augments. With form=running there is no pass: sums of features are kept, each step
multiplies them by `memory` and adds its batch, so that centroids are of the last 1 / (1 - memory) batches or so, each
at the parameters of its step, and labels are by the network as it is.

The model is what the source trained, so `config.init` names its run. The paper's has a bottleneck of 256 with batch
norm, which adapts with the backbone under the frozen head, and that head is weight-normalised: the source is trained
with `config.model.neck=256, neck_relu=False` and `config.adds=("weight_norm",)`, an add-on that leaves a plain layer.
The labelled examples do not pass through the network.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method, Pass
from jaxfer.methods import _domains
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten, unflatten
from jaxfer.state import copied

FORMS = ("paper", "running")


def method(port: Port, *, form: str = "paper", passes: int = 15) -> Method:
    """Group: `backbone`. Reads the stream `target`. Hparams: `pseudo`; `memory` of the running form.

    Args:
      port: the model.
      form: `paper`: centroids by passes over the target; `running`: by sums over the batches.
      passes: how many of them in a stage.
    """
    if form not in FORMS:
        raise InputError(f"options.form: expected {' or '.join(FORMS)}, found {form!r}")
    if passes < 1:
        raise InputError(f"options.passes: expected at least 1, found {passes}")
    running = form == "running"

    def init(params, key, given):
        _domains.check_vectors("shot", port)
        sums = {"sums": jnp.zeros((port.outputs, port.features[0] + 1)), "counts": jnp.zeros(port.outputs)}
        if running:
            return params, {"soft": sums, "hard": sums}
        return params, {"centroids": sums, "params": flatten(params), "model_state": given.model_state}

    def passed(ctx, params, batch, model_state=None):
        """(features with a 1 appended, of length 1; chances) of a batch in evaluation mode."""
        found = ctx.forward(params, other=batch, model_state=model_state, taps=(FEATURES,))
        found = jax.lax.stop_gradient((found.taps[FEATURES], found.outputs))
        features, outputs = (x.astype(jnp.float32) for x in found)
        return extended(features), jax.nn.softmax(outputs)

    def given_labels(ctx):
        kept, batch = ctx.extra, ctx.batch["target"]
        if not running:
            return nearest(passed(ctx, unflatten(kept["params"]), batch, kept["model_state"])[0], kept["centroids"])
        features, chances = passed(ctx, ctx.params, batch)
        return nearest(features, centroids(kept, features, chances, ctx.hparams["memory"])["hard"])

    def kept(rows, state):
        features, chances = (x.astype(np.float64) for x in rows)
        sums = jax.tree.map(lambda x: np.asarray(x, np.float32), of_all(features, chances))
        return {"centroids": sums, "params": copied(flatten(state.params)), "model_state": copied(state.model_state)}

    def update(ctx, extra):
        return centroids(extra, *passed(ctx, ctx.params, ctx.batch["target"]), ctx.hparams["memory"])

    def loss(ctx, outputs):
        labels = given_labels(ctx)
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
        passes=None
        if running
        else Pass(stream="target", times=passes, rows=lambda ctx: passed(ctx, ctx.params, ctx.batch), kept=kept),
        update=update if running else lambda ctx, extra: extra,
        tasks=("classification",),
        whole_batch=True,
        hparams={
            "lr": (1e-4, (1e-5, 1e-4, 1e-3)),
            "pseudo": (0.3, (0.0, 0.1, 0.3)),
            **({"memory": (0.99, (0.9, 0.99))} if running else {}),
        },
        limits={"memory": (0.0, 1.0)} if running else {},
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


def of_all(features: np.ndarray, chances: np.ndarray) -> dict[str, np.ndarray]:
    """What the hard centroids of a whole set are made of, on the host, of float64 [n, width + 1] and [n, classes].

    No sums are kept of what came before.
    """

    def sums(weights):
        return {"sums": weights.T @ features, "counts": weights.sum(0)}

    return sums(np.eye(chances.shape[1])[np.asarray(nearest(features, sums(chances), np))])


def nearest(features: jax.Array, kept: dict, np: Any = jnp) -> jax.Array:
    """[n]: the class whose centroid is nearest in cosine; a class that no example had is none's."""
    means = kept["sums"] / (kept["counts"][:, None] + 1e-8)
    cosines = features @ (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)).T
    return np.where(kept["counts"] > 0, cosines, -np.inf).argmax(1)
