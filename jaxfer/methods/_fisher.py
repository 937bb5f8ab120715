"""The diagonal of the Fisher information, an example at a time: what `ewc` holds and `merge` weighs by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
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


def check_classes(batch: Mapping[str, Any], where: str = "options.expected") -> None:
    """`InputError` unless each example has one class."""
    label = batch.get("label")
    if label is None or label.ndim != 1 or not jnp.issubdtype(label.dtype, jnp.integer):
        needs = "needs one class for each example; with False, labels are read instead"
        raise InputError(f"{where}: the default of `fisher` {needs}")


def expected_squares(ctx: Context, chosen: Mapping[str, jax.Array], classes: int) -> dict[str, jax.Array]:
    """The same over y of p(y | x) in place of the label: the sum over the classes of p(y | x) times those squares."""
    check_classes(ctx.batch)
    label = ctx.batch["label"]

    def squares(of):
        other = dataclasses.replace(ctx, batch={**ctx.batch, "label": jnp.full_like(label, of)})
        return squared_gradients(other, chosen, weighted=True)

    def add(total, of):  # one class after the other: gradients of single examples are large
        return jax.tree.map(jnp.add, total, squares(of)), None

    return jax.lax.scan(add, squares(0), jnp.arange(1, classes))[0]
