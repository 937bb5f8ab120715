"""Deep CORAL: features that covary alike in both domains.

Sun and Saenko, 2016, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", arXiv:1607.01719, eq. 1:
loss + trade_off * |C_s - C_t|_F^2 / (4 d^2), C being the covariances of d features over a batch. The paper aligns the
outputs of the last layer, here what that layer reads. TLlib's loss is another one: the option `means`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.method import Method
from jaxfer.methods import _domains
from jaxfer.models.port import Port


def method(port: Port, *, means: bool = False, norms: str = "joint") -> Method:
    """Groups: `head`, `backbone`. Hparam: `trade_off`. Reads the stream `target`.

    Args:
      port: the model.
      means: TLlib's loss, 4 times the paper's plus the mean of the squares of the differences of the domains' means.
      norms: as in `_domains`: `joint` or `separate`.
    """

    def apart(source, target, ctx, outputs):
        return distance(source, target, means)

    return _domains.aligned("coral", port, apart, logged_as="coral", norms=norms)


def distance(source: jax.Array, target: jax.Array, means: bool = False) -> jax.Array:
    """[]: of features [batch, width] of each domain."""
    spread = jnp.square(_domains.covariance(source) - _domains.covariance(target)).mean()
    return spread + jnp.square(source.mean(0) - target.mean(0)).mean() if means else spread / 4
