"""A-GEM: a step for the new task never points against the gradient of an earlier one.

Chaudhry et al., 2019, "Efficient Lifelong Learning with A-GEM", arXiv:1812.00420, eq. 11: of the new batch's gradient g
and that of a batch from memory, m, the step takes g where g.m >= 0, else g - (g.m / m.m) m. Of several memories m is
the gradient of the sum of their losses. All batches pass through the network together, so that batch statistics are of
all. Each step costs two forward and backward passes.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from jaxfer.method import WEIGHT, Method, task_loss
from jaxfer.methods import er
from jaxfer.models.port import Port

OWN = "agem_own"  # weight of the new batch's loss


def method(port: Port, *, memories: tuple[str, ...] = ("memory",)) -> Method:
    """Groups: `head`, `backbone`. Reads the streams `memories`, whose tasks have heads of their own.

    The weight of a memory's loss has no effect. The loss that is logged is the new batch's, with those of other streams
    with a task; `NAME/loss` is a memory's.

    Args:
      port: the model.
      memories: names of the streams, one for each earlier task.
    """
    weights = tuple(f"{WEIGHT}/{name}" for name in memories)

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        return ctx.hparams.get(OWN, 1.0) * value, logged

    def gradient(next, ctx, trainable):
        every = {name: value for name, value in ctx.hparams.items() if name.startswith(f"{WEIGHT}/")}
        earlier = {name: jnp.float32(name in weights) for name in every}
        others = {name: jnp.float32(0) if name in weights else every[name] for name in every}
        new, rest = next(trainable, {**ctx.hparams, **others, OWN: jnp.float32(1)})
        memory, _ = next(trainable, {**ctx.hparams, **earlier, OWN: jnp.float32(0)})
        return projected(new, memory), rest

    return dataclasses.replace(er.method(port, memories=memories), loss=loss, gradient=gradient)


def projected(new: dict[str, jax.Array], memory: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The new gradient without what points against the memory's, {path: leaf} each."""
    size = optax.tree.vdot(memory, memory)
    against = jnp.minimum(optax.tree.vdot(new, memory), 0) / jnp.where(size > 0, size, 1)
    return jax.tree.map(lambda g, m: g - against * m, new, memory)
