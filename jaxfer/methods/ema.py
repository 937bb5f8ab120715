"""EMA, an add-on: evaluation uses an exponential moving average of the trained parameters.

average <- d * average + (1 - d) * parameters after each step, with d = min(decay, 1 - (1 + step) ^ (-2/3)), timm's
warm-up (`ModelEmaV3(use_warmup=True)`): with a constant 0.9998, nine tenths of the average after 500 steps would be the
start. timm's default is that constant (`warm_up=False`), of 0.9999, and it averages running statistics too unless
`exclude_buffers`: `buffers` does so here, else evaluation uses those that training left.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.methods._averages import averaged
from jaxfer.models.port import Port


def add(method: Method, port: Port, *, warm_up: bool = True, buffers: bool = False) -> Method:
    """The method with averages of what its rules train. Hparam: `decay`.

    Args:
      method: any.
      port: the model.
      warm_up: whether the decay grows from that of a mean of few steps to its own.
      buffers: whether running statistics are averaged too.
    """

    def moved(ctx, average, now):
        decay = ctx.hparams["decay"]
        if warm_up:
            decay = jnp.minimum(decay, 1 - (2.0 + ctx.step) ** (-2 / 3))
        return jax.tree.map(lambda x, y: decay * x + (1 - decay) * y, average, now)

    added = averaged(
        method,
        move=lambda ctx, kept, now: {"average": moved(ctx, kept["average"], now)},
        hparams={**method.hparams, "decay": (0.999, (0.99, 0.999, 0.9998))},
    )
    if not buffers:
        return added

    def init(params, key, given):
        params, kept = added.init(params, key, given)
        if not given.model_state:
            raise InputError("options.buffers: averages running statistics, and the model has none; leave it out")
        return params, {**kept, "statistics": given.model_state}

    def update(ctx, extra):
        return added.update(ctx, extra) | {"statistics": moved(ctx, extra["statistics"], ctx.model_state)}

    return dataclasses.replace(
        added, init=init, update=update, statistics=lambda model_state, extra: extra["statistics"]
    )
