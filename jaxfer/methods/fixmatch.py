"""FixMatch: what the model is sure of on weakly augmented examples is learned on strongly augmented ones.

Sohn et al., 2020, "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", arXiv:2001.07685,
eqs. 3 and 4: loss + weight * the mean over all unlabelled examples of CE(strong view, the class that the weak view
gives), which counts where the weak view's largest chance is at least `threshold`. No gradient goes through the weak
view. All views pass through the network together with the labelled batch, as in the authors' code. TLlib's threshold
is 0.9.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxfer.method import UNLABELLED, Method, task_loss
from jaxfer.methods import _domains
from jaxfer.models.port import Port


def method(port: Port, *, norms: str = "joint") -> Method:
    """Groups: `head`, `backbone`. Hparams: `weight`, `threshold`.

    Reads the stream `target`, augmented weakly (`augment=("flip",)`), and the stream `strong`, the same source with
    strong augmentation. Seven unlabelled examples for a labelled one, as in the paper: `batch_size` of both streams.

    Args:
      port: the model.
      norms: as in `_domains`: `joint` or `separate`: a pass of each view.
    """

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        weak, strong = (ctx.streams[name].outputs for name in ("target", "strong"))
        apart, sure = consistency(weak, strong, ctx.hparams["threshold"])
        return value + ctx.hparams["weight"] * apart, {**logged, "consistency": apart, "sure": sure}

    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        streams={"target": UNLABELLED, "strong": "target"},
        separate=_domains.apart(norms),
        loss=loss,
        tasks=("classification",),
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "weight": (1.0, (0.3, 1.0, 3.0)),
            "threshold": (0.95, (0.8, 0.9, 0.95)),
        },
        limits={"threshold": (0.0, 1.0)},
    )


def consistency(weak: jax.Array, strong: jax.Array, threshold: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """(loss, share of examples that count) of logits [batch, classes] of the two views."""
    chances = jax.lax.stop_gradient(jax.nn.softmax(weak.astype(jnp.float32)))
    sure = (chances.max(-1) >= threshold).astype(jnp.float32)
    each = optax.softmax_cross_entropy_with_integer_labels(strong.astype(jnp.float32), chances.argmax(-1))
    return (sure * each).mean(), sure.mean()
