"""JAN: features and predictions whose joint distributions in both domains have the same means in a kernel's space.

Long et al., 2017, "Deep Transfer Learning with Joint Adaptation Networks", arXiv:1605.06636, section 4: loss +
trade_off * JMMD^2, the discrepancy under the product of a kernel of the features and one of the softmax, estimated in
linear time by disjoint pairs (section 4.2). Both are exp(-distance / width), the width being the median squared
distance (section 5.1): here of each step's examples, there of all training examples. JAN-A, which has an adversary
besides, is not offered.

TLlib's form: width=mean and estimate=all, by all pairs, with the features' kernels as in `dan` and one of s = 0.92 of
the softmax.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.methods import _domains, dan
from jaxfer.models.port import Port

OF_MEDIAN = (0.5,)  # the variance of exp(-distance / median)
DEVIATION = 0.92  # TLlib's


def method(
    port: Port,
    *,
    width: str = "median",
    estimate: str = "linear",
    multiples: tuple[float, ...] | None = None,
    deviation: float | None = None,
    norms: str = "joint",
) -> Method:
    """Groups: `head`, `backbone`. Hparam: `trade_off`. Reads the stream `target`.

    Args:
      port: the model.
      width: as in `dan`: `median` or `mean`.
      estimate: as in `dan`: `linear` or `all`.
      multiples: variances of the features' kernels, as multiples of the width; None: half the median, or TLlib's 5.
      deviation: s of the predictions' kernel; None: by the median of their own distances, or TLlib's 0.92.
      norms: as in `_domains`: `joint` or `separate`.
    """
    _domains.check_kernels(width, estimate)
    if (multiples is not None and (not multiples or min(multiples) <= 0)) or (deviation is not None and deviation <= 0):
        found = f"multiples={multiples}, deviation={deviation}"
        raise InputError(f"options: expected multiples and deviation above 0, found {found}")
    median = width == _domains.MEDIAN
    if median:
        multiples = multiples or OF_MEDIAN
    else:
        deviation = deviation or DEVIATION

    def apart(source, target, ctx, outputs):
        logits = jnp.concatenate([outputs, ctx.streams["target"].outputs]).astype(jnp.float32)
        of_features = dan.kernel(source, target, width, multiples)
        own = {"variance": deviation**2} if deviation else {"multiples": OF_MEDIAN, "width": width}
        of_chances = _domains.gaussian(jax.nn.softmax(logits), **own)
        return _domains.ESTIMATES[estimate](of_features * of_chances, len(source))

    return _domains.aligned("jan", port, apart, logged_as="jmmd", norms=norms, tasks=("classification",))
