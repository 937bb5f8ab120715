"""The diagonal of the empirical Fisher information, an example at a time: what `ewc` holds and `merge` weighs by."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfer.method import Context
from jaxfer.rules import flatten, unflatten


def squared_gradients(ctx: Context, chosen: Mapping[str, jax.Array], weighted: bool = False) -> dict[str, jax.Array]:
    """{path: [batch, *shape]}, squares of the gradient of each example's log p(y | x), y being its label.

    Args:
      ctx: as of `Method.measure`.
      chosen: {path: leaf} of `ctx.params`, those that the gradient is of.
      weighted: times p(y | x).
    """
    leaves = flatten(ctx.params)

    def log_chance(moving, example):
        outputs = ctx.apply(unflatten({**leaves, **moving}), example)
        return -ctx.task.scores(outputs, example)["loss"].value()

    def squared(example):
        alone = jax.tree.map(lambda field: field[None], example)
        told, gradients = jax.value_and_grad(log_chance)(dict(chosen), alone)
        weight = jnp.exp(told) if weighted else 1.0
        return jax.tree.map(lambda g: weight * jnp.square(g), gradients)

    return jax.vmap(squared)(dict(ctx.batch))
