"""JAN: features and predictions whose joint distributions in both domains have the same means in a kernel's space.

Long et al., 2017, "Deep Transfer Learning with Joint Adaptation Networks", arXiv:1605.06636, section 4:
loss + trade_off * MMD^2 under the product of a kernel of the features and one of the softmax. The kernels are TLlib's:
a sum of Gaussians of the features, as in `dan`, and one of s = 0.92 of the softmax. The estimate is of all pairs (the
paper: of disjoint ones, in linear time), and there is no adversary (the paper's JAN-A).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.methods import _domains
from jaxfer.methods.dan import MULTIPLES
from jaxfer.models.port import Port


def method(
    port: Port, *, multiples: tuple[float, ...] = MULTIPLES, deviation: float = 0.92, norms: str = "joint"
) -> Method:
    """Groups: `head`, `backbone`. Hparam: `trade_off`. Reads the stream `target`.

    Args:
      port: the model.
      multiples: variances of the features' kernels, as multiples of the mean squared distance of a step's features.
      deviation: s of the predictions' kernel.
      norms: as in `_domains`: `joint` or `separate`.
    """
    if not multiples or min(multiples) <= 0 or deviation <= 0:
        found = f"multiples={multiples}, deviation={deviation}"
        raise InputError(f"options: expected multiples and deviation above 0, found {found}")

    def apart(source, target, ctx, outputs):
        logits = jnp.concatenate([outputs, ctx.streams["target"].outputs]).astype(jnp.float32)
        of_features = _domains.gaussian(jnp.concatenate([source, target]), multiples=multiples)
        of_chances = _domains.gaussian(jax.nn.softmax(logits), variance=deviation**2)
        return _domains.discrepancy(of_features * of_chances, len(source))

    return _domains.aligned("jan", port, apart, logged_as="jmmd", norms=norms, tasks=("classification",))
