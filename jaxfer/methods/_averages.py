"""What `ema`, `swa` and `schedule_free` share: averages of the trained parameters, for evaluation and export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfer.method import FROZEN, Context, Method
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

    def base(ctx: Context) -> Context:
        return dataclasses.replace(ctx, extra=ctx.extra["base"])

    def at_average(params, extra):
        leaves = flatten(params)
        return unflatten({**leaves, **show(extra, {path: leaves[path] for path in extra["average"]})})

    def init(params, key, given):
        params, inner = method.init(params, key, given)
        leaves = flatten(params)
        groups = resolve((), leaves, defaults=method.rules)
        trained = {path: x for path, x in leaves.items() if groups[path] != FROZEN}
        return params, {"base": inner, "average": trained, **{name: jnp.zeros((), jnp.float32) for name in sums}}

    def update(ctx, extra):
        inner = method.update(dataclasses.replace(ctx, extra=extra["base"]), extra["base"])
        leaves = flatten(ctx.params)
        return {"base": inner, **move(ctx, extra, {path: leaves[path] for path in extra["average"]})}

    return dataclasses.replace(
        method,
        init=init,
        view=lambda params, extra: method.view(params, extra["base"]),
        noisy_view=method.noisy_view and (lambda params, extra, key: method.noisy_view(params, extra["base"], key)),
        evaluated=lambda params, extra: (method.evaluated or method.view)(at_average(params, extra), extra["base"]),
        intercept=lambda params, extra: method.intercept(params, extra["base"]),
        batch=method.batch and (lambda ctx: method.batch(base(ctx))),
        loss=lambda ctx, outputs: method.loss(base(ctx), outputs),
        gradient=lambda next, ctx, trainable: method.gradient(next, base(ctx), at(ctx, ctx.extra, trainable)),
        update=update,
        merge=method.merge and (lambda params, extra: method.merge(at_average(params, extra), extra["base"])),
        **fields,
    )
