"""EMA, an add-on: evaluation uses an exponential moving average of the trained parameters.

average <- d * average + (1 - d) * parameters after each step, with d = min(decay, 1 - (1 + step) ^ (-2/3)), timm's
warm-up (`ModelEmaV3`): with a constant 0.9998, nine tenths of the average after 500 steps would be the start.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxfer.method import FROZEN, Method
from jaxfer.models.port import Port
from jaxfer.rules import flatten, resolve, unflatten


def add(method: Method, port: Port) -> Method:
    """The method with averages of what its rules train. Hparam: `decay`. Running statistics are not averaged."""

    def averaged(params, extra):
        return unflatten({**flatten(params), **extra["average"]})

    def init(params, key, given):
        params, base = method.init(params, key, given)
        groups = resolve((), flatten(params), defaults=method.rules)
        return params, {"base": base, "average": {p: x for p, x in flatten(params).items() if groups[p] != FROZEN}}

    def update(ctx, extra):
        base = method.update(dataclasses.replace(ctx, extra=extra["base"]), extra["base"])
        decay = jnp.minimum(ctx.hparams["decay"], 1 - (2.0 + ctx.step) ** (-2 / 3))
        now = flatten(ctx.params)
        average = {path: decay * x + (1 - decay) * now[path] for path, x in extra["average"].items()}
        return {"base": base, "average": average}

    def evaluated(params, extra):
        return (method.evaluated or method.view)(averaged(params, extra), extra["base"])

    def merge(params, extra):
        return method.merge(averaged(params, extra), extra["base"])

    return dataclasses.replace(
        method,
        init=init,
        view=lambda params, extra: method.view(params, extra["base"]),
        evaluated=evaluated,
        intercept=lambda params, extra: method.intercept(params, extra["base"]),
        batch=method.batch and (lambda ctx: method.batch(dataclasses.replace(ctx, extra=ctx.extra["base"]))),
        loss=lambda ctx, outputs: method.loss(dataclasses.replace(ctx, extra=ctx.extra["base"]), outputs),
        gradient=lambda next, ctx, x: method.gradient(next, dataclasses.replace(ctx, extra=ctx.extra["base"]), x),
        update=update,
        merge=method.merge and merge,
        hparams={**method.hparams, "decay": (0.999, (0.99, 0.999, 0.9998))},
    )
