"""DAN: features whose distributions in both domains have the same means in a kernel's space.

Long et al., 2015, "Learning Transferable Features with Deep Adaptation Networks", arXiv:1502.02791, eq. 4: loss +
trade_off * MMD^2 under a mixture of Gaussian kernels (eq. 2), estimated in linear time by disjoint pairs (eq. 5). Their
variances lie around the median squared distance, 2^-8 to 2^8 times it by factors of the root of 2 (section 4.1): here
the median is of each step's examples, there of all training examples.

Not offered are the paper's learned weights of the kernels (eqs. 7 and 8): all are 1 / m of m kernels. And one layer is
compared, what the output layer reads; the paper sums over the last three.

TLlib's form: width=mean and estimate=all, the sum of five kernels around the mean squared distance, by all pairs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.methods import _domains
from jaxfer.models.port import Port

MULTIPLES = (0.125, 0.25, 0.5, 1.0, 2.0)  # TLlib's
OF_MEDIAN = tuple(2.0 ** (k / 2) / 2 for k in range(-16, 17))  # halves: the paper's kernel is exp(-distance / width)


def method(
    port: Port,
    *,
    width: str = "median",
    estimate: str = "linear",
    multiples: tuple[float, ...] | None = None,
    norms: str = "joint",
) -> Method:
    """Groups: `head`, `backbone`. Hparam: `trade_off`. Reads the stream `target`.

    Args:
      port: the model.
      width: `median` of the squared distances of a step's features, and the mean of the kernels; `mean`: of these
        distances, and the kernels' sum, as in TLlib.
      estimate: `linear`: by disjoint pairs; `all`: by all of them, with a constant that keeps it above 0, as in TLlib.
      multiples: the kernels' variances, as multiples of the width; None: the paper's 33, or TLlib's 5.
      norms: as in `_domains`: `joint` or `separate`, which is TLlib's.
    """
    _domains.check_kernels(width, estimate)
    if multiples is not None and (not multiples or min(multiples) <= 0):
        raise InputError(f"options.multiples: expected numbers above 0, found {multiples}")

    def apart(source, target, ctx, outputs):
        return _domains.ESTIMATES[estimate](kernel(source, target, width, multiples), len(source))

    return _domains.aligned("dan", port, apart, logged_as="mmd", norms=norms)


def kernel(source: jax.Array, target: jax.Array, width: str, multiples: tuple[float, ...] | None = None) -> jax.Array:
    """[n, n] of the features of both domains: the mean of the kernels around the median, the sum around the mean."""
    multiples = multiples or (OF_MEDIAN if width == _domains.MEDIAN else MULTIPLES)
    found = _domains.gaussian(jnp.concatenate([source, target]), multiples=multiples, width=width)
    return found / len(multiples) if width == _domains.MEDIAN else found
