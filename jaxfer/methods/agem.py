"""A-GEM: a step for the new task never points against the gradient of an earlier one.

Chaudhry et al., 2019, "Efficient Lifelong Learning with A-GEM", arXiv:1812.00420, eq. 11: of the new batch's gradient g
and that of a batch from memory, m, the step takes g where g.m >= 0, else g - (g.m / m.m) m. Both batches pass through
the network together, so that batch statistics are of both. Each step costs two forward and backward passes.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from jaxfer.method import Method, task_loss
from jaxfer.methods import er
from jaxfer.models.port import Port

OWN, MEMORY = "agem_own", "weight/memory"  # weights of the two losses


def method(port: Port) -> Method:
    """Groups: `head`, `backbone`. Reads the stream `memory`, whose task has a head of its own.

    The weight of its loss only has to be above 0. The loss that is logged is the new batch's, `memory/loss` the other.
    """

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        return ctx.hparams.get(OWN, 1.0) * value, logged

    def gradient(next, ctx, trainable):
        new, rest = next(trainable, {**ctx.hparams, OWN: jnp.float32(1), MEMORY: jnp.float32(0)})
        memory, _ = next(trainable, {**ctx.hparams, OWN: jnp.float32(0), MEMORY: jnp.float32(1)})
        return projected(new, memory), rest

    return dataclasses.replace(er.method(port), loss=loss, gradient=gradient)


def projected(new: dict[str, jax.Array], memory: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The new gradient without what points against the memory's, {path: leaf} each."""
    size = optax.tree.vdot(memory, memory)
    against = jnp.minimum(optax.tree.vdot(new, memory), 0) / jnp.where(size > 0, size, 1)
    return jax.tree.map(lambda g, m: g - against * m, new, memory)
