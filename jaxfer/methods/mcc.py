"""Minimum class confusion: predictions on the target that do not waver between classes.

Jin et al., 2020, "Minimum Class Confusion for Versatile Domain Adaptation", arXiv:1912.03699, section 3:
loss + trade_off * the mean over classes of what lies off the diagonal of their confusion. That is Y^T W Y with rows
that sum to 1, Y being the softmax of the target's outputs / T and W weights 1 + exp(-entropy) of the examples, which
average 1 and, as in TLlib, have no gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.method import Method, task_loss
from jaxfer.methods import _domains
from jaxfer.models.port import Port


def method(port: Port, *, norms: str = "joint") -> Method:
    """Groups: `head`, `backbone`. Hparams: `trade_off`, `temperature` (T). Reads the stream `target`.

    Args:
      port: the model.
      norms: as in `_domains`: `joint` or `separate`.
    """

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        confused = confusion(ctx.streams["target"].outputs.astype(jnp.float32), ctx.hparams["temperature"])
        return value + ctx.hparams["trade_off"] * confused, {**logged, "confusion": confused}

    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        streams=_domains.STREAMS,
        separate=_domains.apart(norms),
        loss=loss,
        tasks=("classification",),
        whole_batch=True,
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "trade_off": (1.0, (0.1, 0.3, 1.0)),
            "temperature": (2.5, (1.5, 2.5, 3.0)),
        },
    )


def confusion(logits: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """[]: of logits [batch, classes]."""
    chances = jax.nn.softmax(logits / temperature)
    weights = jax.lax.stop_gradient(1 + jnp.exp(-_domains.entropies(chances)))
    together = (chances * (weights / weights.mean())[:, None]).T @ chances
    together = together / together.sum(1, keepdims=True)
    return (together.sum() - jnp.trace(together)) / len(together)
