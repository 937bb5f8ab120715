"""Clipping: what becomes of gradients that are too large, before any group's optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from jaxfer.optim.leaves import Leaf, leafwise

SMALLEST = 1e-3  # norm of a parameter that adaptive clipping counts with at least, so that one at 0 can move


def _by_norm(leaves: Mapping[str, Leaf], most: jax.Array) -> optax.GradientTransformation:
    """All gradients by one factor, so that their norm over all leaves is at most `most`."""
    return optax.clip_by_global_norm(most)


def _by_value(leaves: Mapping[str, Leaf], most: jax.Array) -> optax.GradientTransformation:
    """Each entry to `-most..most`."""
    return optax.clip(most)


def _adaptive(leaves: Mapping[str, Leaf], most: jax.Array) -> optax.GradientTransformation:
    """The gradient of each output unit to `most` times the norm of that unit's weights (arXiv:2102.06171, eq. 3).

    A unit of a kernel is what one output sums over; of other arrays of several axes it is a column of the last one; an
    array of one axis is one unit. The head, at depth 0, is left alone, as the paper says.
    """

    def clipped(path: str, update: jax.Array, param: jax.Array) -> jax.Array:
        leaf = leaves[path]
        if not leaf.depth:
            return update
        axes = tuple(range((leaf.inputs or update.ndim - 1) if update.ndim > 1 else update.ndim))
        norm, own = (jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (update, param))
        largest = most * jnp.maximum(own, SMALLEST)
        return update * jnp.where(norm > largest, largest / jnp.maximum(norm, 1e-6), 1.0)

    return leafwise(clipped)


CLIPS: dict[str, Callable[[Mapping[str, Leaf], jax.Array], optax.GradientTransformation]] = {
    "norm": _by_norm,
    "value": _by_value,
    "agc": _adaptive,
}
