"""What `ema`, `swa` and `schedule_free` share: averages of the trained parameters, for evaluation and export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfer.method import FROZEN, Context, Method
from jaxfer.methods._based import based
from jaxfer.rules import flatten, resolve, unflatten

Leaves = dict[str, jax.Array]
Kept = Mapping[str, Any]


def averaged(
    method: Method,
    *,
    move: Callable[[Context, Kept, Leaves], Kept],
    show: Callable[[Kept, Leaves], Leaves] = lambda kept, now: kept["average"],
    at: Callable[[Context, Kept, Leaves], Leaves] = lambda ctx, kept, trainable: trainable,
    sums: tuple[str, ...] = (),
    **fields: Any,
) -> Method:
    """The method, evaluated at averages of what its rules train. Running statistics are not averaged.

    Args:
      method: to which this is added.
      move: (context after the step, what is kept, the trained leaves after the step) -> what is kept then: `average`,
        which begins as the trained leaves, and `sums`.
      show: (what is kept, the trained leaves) -> the leaves to evaluate at.
      at: (context before the step, what is kept, the trainable leaves) -> where the gradients are taken.
      sums: names of numbers kept beside the average, [] float32 each, 0 at first.
      fields: of the method, in place of its own.
    """

    inner = based(method)

    def at_average(params, extra):
        params = params if inner.evaluated is None else inner.evaluated(params, extra)
        leaves = flatten(params)
        return unflatten({**leaves, **show(extra, {path: leaves[path] for path in extra["average"]})})

    def init(params, key, given):
        params, base = method.init(params, key, given)
        leaves = flatten(params)
        groups = resolve((), leaves, defaults=method.rules)
        trained = {path: x for path, x in leaves.items() if groups[path] != FROZEN}
        return params, {"base": base, "average": trained, **{name: jnp.zeros((), jnp.float32) for name in sums}}

    def update(ctx, extra):
        leaves = flatten(ctx.params)
        return inner.update(ctx, extra) | move(ctx, extra, {path: leaves[path] for path in extra["average"]})

    return dataclasses.replace(
        inner,
        init=init,
        evaluated=at_average,
        gradient=lambda next, ctx, trainable: inner.gradient(next, ctx, at(ctx, ctx.extra, trainable)),
        update=update,
        merge=inner.merge and (lambda params, extra: inner.merge(at_average(params, extra), extra)),
        former=inner.former and (lambda params, extra: inner.former(at_average(params, extra), extra)),
        **fields,
    )
