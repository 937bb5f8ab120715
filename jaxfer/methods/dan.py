"""DAN: features whose distributions in both domains have the same means in a kernel's space.

Long et al., 2015, "Learning Transferable Features with Deep Adaptation Networks", arXiv:1502.02791, section 3:
loss + trade_off * MMD^2 of a sum of Gaussian kernels. As in TLlib their weights are equal (the paper learns them), the
widths are multiples of the mean squared distance (there: of the median), the estimate is of all pairs (there: of
disjoint ones, in linear time), and one layer is compared: what the output layer reads.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.methods import _domains
from jaxfer.models.port import Port

MULTIPLES = (0.125, 0.25, 0.5, 1.0, 2.0)


def method(port: Port, *, multiples: tuple[float, ...] = MULTIPLES, norms: str = "joint") -> Method:
    """Groups: `head`, `backbone`. Hparam: `trade_off`. Reads the stream `target`.

    Args:
      port: the model.
      multiples: the kernels' variances, as multiples of the mean squared distance of a step's features.
      norms: as in `_domains`: `joint` or `separate`, which is TLlib's.
    """
    if not multiples or min(multiples) <= 0:
        raise InputError(f"options.multiples: expected numbers above 0, found {multiples}")

    def apart(source, target, ctx, outputs):
        kernel = _domains.gaussian(jnp.concatenate([source, target]), multiples=multiples)
        return _domains.discrepancy(kernel, len(source))

    return _domains.aligned("dan", port, apart, logged_as="mmd", norms=norms)
