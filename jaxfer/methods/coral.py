"""Deep CORAL: features that covary alike in both domains.

Sun and Saenko, 2016, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", arXiv:1607.01719, eq. 1:
loss + trade_off * |C_s - C_t|_F^2 / (4 d^2), C being the covariances of d features over a batch. The paper aligns the
outputs of the last layer, here what that layer reads. TLlib's loss is another one: the option `means`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.method import Method, task_loss
from jaxfer.methods import _domains
from jaxfer.models.port import FEATURES, Port


def method(port: Port, *, means: bool = False) -> Method:
    """Groups: `head`, `backbone`. Hparam: `trade_off`. Reads the stream `target`.

    Args:
      port: the model.
      means: TLlib's loss, 4 times the paper's plus the mean of the squares of the differences of the domains' means.
    """

    def init(params, key, given):
        _domains.check_vectors("coral", port)
        return params, {}

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        source, target = _domains.features(ctx)
        _domains.check_pairs("coral", source, target)
        apart = distance(source, target, means)
        return value + ctx.hparams["trade_off"] * apart, {**logged, "coral": apart}

    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        init=init,
        taps=(FEATURES,),
        streams=_domains.STREAMS,
        loss=loss,
        whole_batch=True,
        hparams={"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)), "trade_off": (1.0, (0.1, 1.0, 10.0))},
    )


def distance(source: jax.Array, target: jax.Array, means: bool = False) -> jax.Array:
    """[]: of features [batch, width] of each domain."""
    spread = jnp.square(_domains.covariance(source) - _domains.covariance(target)).mean()
    return spread + jnp.square(source.mean(0) - target.mean(0)).mean() if means else spread / 4
