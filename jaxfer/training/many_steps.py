"""Many training steps in a call, each for several runs at once: what `blocks.py` compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxfer.rules import unflatten
from jaxfer.state import State
from jaxfer.step import StepSpec, make_train_step, split


def make_block(spec: StepSpec, steps: int) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """Up to `steps` training steps in a call, each of them for every member of a grid [rows, columns] at once.

    Members of a row see the same batches under the same key. The function is of

      own: (trainable leaves, model_state, opt_state, extra) of the members, [rows, columns, ...] each.
      hparams: likewise.
      keys: [rows].
      frozen: leaves of all members.
      number: [] int32, steps done.
      columns: {field: [n, ...]} of all examples; empty where batches hold what is read.
      batches: fields [steps, rows, b, ...]; those of `columns` are rows of them.
      count: [] int32, steps to do.

    and gives (own, {metric: [steps, rows, columns]}), zero after `count`.
    """
    step = make_train_step(spec)

    def member(own, hparams, key, frozen, number, batch):
        trainable, model_state, opt_state, extra = own
        params = unflatten({**frozen, **trainable})
        state, metrics = step(State(number, params, model_state, opt_state, extra, hparams, key), batch)
        return (split(state.params, spec.trainable)[0], state.model_state, state.opt_state, state.extra), metrics

    row = jax.vmap(member, in_axes=(0, 0, None, None, None, None))
    grid = jax.vmap(row, in_axes=(0, 0, 0, None, None, 0))

    def block(own, hparams, keys, frozen, number, columns, batches, count):
        def one(i, carry):
            own, logged = carry
            batch = jax.tree.map(lambda x: x[i], batches)
            batch = {**batch, **{field: column[batch[field]] for field, column in columns.items()}}
            own, metrics = grid(own, hparams, keys, frozen, number + i, batch)
            return own, jax.tree.map(lambda all, x: all.at[i].set(x), logged, metrics)

        first = {name: x[0] for name, x in batches.items()} | {k: v[batches[k][0]] for k, v in columns.items()}
        shapes = jax.eval_shape(grid, own, hparams, keys, frozen, number, first)[1]
        logged = jax.tree.map(lambda s: jnp.zeros((steps, *s.shape), s.dtype), shapes)
        return jax.lax.fori_loop(0, count, one, (own, logged))

    return block
