"""What methods that compare views of the same examples share: lengths of 1, a momentum copy and its passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxfer.method import Context
from jaxfer.models.port import FEATURES
from jaxfer.rules import unflatten

Leaves = Mapping[str, jax.Array]


def unit_length(x: jax.Array) -> jax.Array:
    """Rows of length 1."""
    return x / jnp.sqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def views(ctx: Context) -> tuple[jax.Array, jax.Array]:
    """Features [batch, width] float32 of the main batch and of the stream `view`, the same examples augmented anew."""
    return tuple(taps[FEATURES].astype(jnp.float32) for taps in (ctx.taps, ctx.streams["view"].taps))


def moved(copy: Leaves, now: Leaves, kept: jax.Array | float) -> dict[str, jax.Array]:
    """The copy after a step, of which it keeps this share of itself."""
    return {path: kept * x + (1 - kept) * now[path] for path, x in copy.items()}


def rising(ctx: Context, start: jax.Array | float) -> jax.Array:
    """A share that rises from `start` at the first step towards 1 at the last, by half a cosine."""
    return 1 - (1 - start) * (jnp.cos(jnp.pi * ctx.step / ctx.hparams["total_steps"]) + 1) / 2


def of_copy(ctx: Context, copy: Leaves, plain: Callable, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict]:
    """(features [batch, width] float32 of a training pass under the copy, its parameters); no gradient.

    Args:
      ctx: the step's context.
      copy: of all parameters, {path: leaf}.
      plain: the method's `view`.
      batch: examples.
    """
    copy = unflatten(jax.lax.stop_gradient(dict(copy)))
    passed = ctx.forward(plain(copy, {}), other=batch, train=True, taps=(FEATURES,))
    return jax.lax.stop_gradient(passed.taps[FEATURES].astype(jnp.float32)), copy
