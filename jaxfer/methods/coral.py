"""Deep CORAL: outputs that covary alike in both domains.

Sun and Saenko, 2016, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", arXiv:1607.01719, eqs. 1 to 3 and
6: loss + trade_off * |C_s - C_t|_F^2 / (4 d^2), C being the covariances over a batch of the last layer's d outputs, the
paper's fc8. TLlib aligns what that layer reads, by another loss: layer=features and `means`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.methods import _domains
from jaxfer.models.port import Port

LAYERS = ("outputs", "features")


def method(port: Port, *, layer: str = "outputs", means: bool = False, norms: str = "joint") -> Method:
    """Groups: `head`, `backbone`. Hparam: `trade_off`. Reads the stream `target`.

    Args:
      port: the model.
      layer: `outputs`: of the last layer; `features`: what it reads, as in TLlib.
      means: TLlib's loss, 4 times the paper's plus the mean of the squares of the differences of the domains' means.
      norms: as in `_domains`: `joint` or `separate`.
    """
    if layer not in LAYERS:
        raise InputError(f"options.layer: expected {' or '.join(LAYERS)}, found {layer!r}")

    def apart(source, target, ctx, outputs):
        if layer == "outputs":
            source, target = (x.astype(jnp.float32) for x in (outputs, ctx.streams["target"].outputs))
        return distance(source, target, means)

    return _domains.aligned("coral", port, apart, logged_as="coral", norms=norms)


def distance(source: jax.Array, target: jax.Array, means: bool = False) -> jax.Array:
    """[]: of outputs or features [batch, width] of each domain."""
    spread = jnp.square(_domains.covariance(source) - _domains.covariance(target)).mean()
    return spread + jnp.square(source.mean(0) - target.mean(0)).mean() if means else spread / 4
