"""L2-SP: fine-tuning with an L2 penalty towards the starting point.

Li et al., 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", arXiv:1802.01483, eq. 2:
loss + alpha / 2 * |w - w0|^2 over the backbone + beta / 2 * |w|^2 over the new head. alpha is 0.1 and beta 0.01 in the
authors' script; TLlib has an alpha of 0.01. Neither has weight decay beside it, which pulls to zero: a note says
where there is one.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxfer.method import Method, task_loss
from jaxfer.models.port import Port
from jaxfer.rules import flatten


def method(port: Port) -> Method:
    """Groups: `head`, `backbone`. Hparams: `alpha` (pull to the start), `beta` (pull of the head to zero)."""

    def init(params, key, given):
        # The anchor is the initial backbone; State copies it, so donating the parameters leaves it intact.
        return params, {path: leaf for path, leaf in flatten(params).items() if not path.startswith(f"{port.head}/")}

    def loss(ctx, outputs):
        value, metrics = task_loss(ctx, outputs)
        moved = [(leaf, ctx.extra.get(path)) for path, leaf in flatten(ctx.params).items()]
        pull = sum(jnp.sum(jnp.square(leaf - anchor)) for leaf, anchor in moved if anchor is not None)
        size = sum(jnp.sum(jnp.square(leaf)) for leaf, anchor in moved if anchor is None)
        penalty = ctx.hparams["alpha"] / 2 * pull + ctx.hparams["beta"] / 2 * size
        return value + penalty, {**metrics, "penalty": penalty}

    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        init=init,
        loss=loss,
        decays=True,
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "alpha": (0.1, (0.001, 0.01, 0.1, 1.0)),
            "beta": (0.01, (0.01,)),
        },
    )
