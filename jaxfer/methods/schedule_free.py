"""Schedule-Free, an add-on: averages take the place of a schedule that falls, and momentum that of the optimizer.

Defazio et al., 2024, "The Road Less Scheduled", arXiv:2405.15682, eqs. 2 to 4, as `optax.contrib.schedule_free` has it:
gradients are taken at y = (1 - beta) z + beta x, the optimizer moves z, and x <- (1 - c) x + c z is what is evaluated.
c is the step's weight over the sum of all so far, a weight being the square of the rate's share in the warm-up.

It goes with `schedule="constant"` and `momentum=0.0`: `adamw` is then the paper's Schedule-Free AdamW (whose decay is
of y; here it is of z), `sgd` its SGD. A norm's running statistics would be those of y: they stand still, or a stage of
`adabn` with examples=training counts them anew.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxfer.method import Method
from jaxfer.methods._averages import averaged
from jaxfer.models.port import Port


def add(method: Method, port: Port) -> Method:
    """The method without a schedule. Hparam: `beta`, how near to the average gradients are taken."""

    def at(ctx, kept, trainable):
        beta = ctx.hparams["beta"]
        return {path: (1 - beta) * z + beta * kept["average"][path] for path, z in trainable.items()}

    def move(ctx, kept, now):
        share = jnp.minimum((ctx.step + 1.0) / jnp.maximum(ctx.hparams["warmup"], 1.0), 1.0)
        total = kept["weights"] + share**2
        c = share**2 / total
        return {"average": {path: (1 - c) * x + c * now[path] for path, x in kept["average"].items()}, "weights": total}

    return averaged(
        method,
        move=move,
        sums=("weights",),
        at=at,
        still_norms=True,
        hparams={**method.hparams, "beta": (0.9, (0.9, 0.95))},
        limits={**method.limits, "beta": (0.0, 1.0)},
    )
