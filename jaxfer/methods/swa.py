"""SWA, an add-on: evaluation uses the plain mean of the parameters at the end of training.

Izmailov et al., 2018, "Averaging Weights Leads to Wider Optima and Better Generalization", arXiv:1803.05407,
Algorithm 1: average <- (average * n + parameters) / (n + 1), every `swa_every` steps of the stage's last part. Before
that part evaluation uses the parameters themselves. A schedule that stays high there lets them move: `constant`.

A norm's running statistics would be those of other parameters. A stage of `adabn` with examples=training counts them
anew: the paper's pass over the data afterwards. Or they stand still, as in every network without any, and under
`config.norms=((".*", "eval"),)`.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxfer.method import Method
from jaxfer.methods._averages import averaged
from jaxfer.models.port import Port


def add(method: Method, port: Port) -> Method:
    """The method with the mean of what its rules train.

    Hparams: `swa_start`, the share of the stage's steps before the first that counts; `swa_every`, steps from one that
    counts to the next.
    """

    def move(ctx, kept, now):
        done = ctx.step + 1.0
        since = done - jnp.floor(ctx.hparams["swa_start"] * ctx.hparams["total_steps"])
        counts = (since > 0) & (jnp.mod(since - 1, jnp.maximum(ctx.hparams["swa_every"], 1)) == 0)
        count = kept["count"] + counts
        share = jnp.where(counts, 1 / jnp.maximum(count, 1), 0.0)
        average = {path: x + share * (now[path] - x) for path, x in kept["average"].items()}
        return {"average": average, "count": count}

    def show(kept, now):
        return {path: jnp.where(kept["count"] > 0, x, now[path]) for path, x in kept["average"].items()}

    return averaged(
        method,
        move=move,
        sums=("count",),
        show=show,
        still_norms=True,
        hparams={**method.hparams, "swa_start": (0.75, (0.5, 0.75)), "swa_every": (1.0, (1.0,))},
        limits={**method.limits, "swa_start": (0.0, 1.0), "swa_every": (1.0, math.inf)},
    )
