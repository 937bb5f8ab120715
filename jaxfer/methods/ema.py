"""EMA, an add-on: evaluation uses an exponential moving average of the trained parameters.

average <- d * average + (1 - d) * parameters after each step, with d = min(decay, 1 - (1 + step) ^ (-2/3)), timm's
warm-up (`ModelEmaV3(use_warmup=True)`): with a constant 0.9998, nine tenths of the average after 500 steps would be the
start. timm's default is that constant (`warm_up=False`), of 0.9999, and it averages running statistics too unless
`exclude_buffers`; here evaluation uses those that training left.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxfer.method import Method
from jaxfer.methods._averages import averaged
from jaxfer.models.port import Port


def add(method: Method, port: Port, *, warm_up: bool = True) -> Method:
    """The method with averages of what its rules train. Hparam: `decay`. Running statistics are not averaged.

    Args:
      method: any.
      port: the model.
      warm_up: whether the decay grows from that of a mean of few steps to its own.
    """

    def move(ctx, kept, now):
        decay = ctx.hparams["decay"]
        if warm_up:
            decay = jnp.minimum(decay, 1 - (2.0 + ctx.step) ** (-2 / 3))
        return {"average": {path: decay * x + (1 - decay) * now[path] for path, x in kept["average"].items()}}

    return averaged(
        method,
        move=move,
        hparams={**method.hparams, "decay": (0.999, (0.99, 0.999, 0.9998))},
    )
