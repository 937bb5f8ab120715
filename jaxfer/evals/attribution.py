"""What a network's answer to an example rests on: integrated gradients of pixels or tokens, and Grad-CAM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.network import Network

STEPS = 32  # of the path of integrated gradients
Batch = Mapping[str, Any]


class Attributed(NamedTuple):
    """What each place of one example adds to the logit of a class.

    Attributes:
      places: float64 [height, width] of an image, or [tokens] of a text; signed.
      error: |sum of places - (F(x) - F(x'))| / |F(x) - F(x')|, which an exact integral makes 0.
      cam: Grad-CAM, float64 [rows, columns] in [0, 1]; None where no unit below the head gives an image, or the method
        changes activations.
    """

    places: np.ndarray
    error: float
    cam: np.ndarray | None


class Attribution:
    """Integrated gradients (Sundararajan, Taly and Yan, 2017, arXiv:1703.01365, equation 3, at the middle of `STEPS`
    equal parts) and Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391, equations 1 and 2) of a network's logits.

    The path begins at a blank input: of an image the mean image, which is 0 once it is normalised. That of a text is of
    what the first unit gives; a token's share is the sum over its channels.

    Attributes:
      reads: whether the network can be asked: one that reads images, or texts each on its own whose first unit gives
        [batch, tokens, width] and whose method changes no activations.
    """

    def __init__(self, network: Network):
        self._network, port = network, network.port
        taps = jax.eval_shape(lambda batch: network(batch, taps=port.units[:-1]).taps, port.example(1))
        shapes = {unit: getattr(taps[unit], "shape", ()) for unit in port.units[:-1]}
        image = isinstance(port.encoding, ImageEncoding)
        plain = not _intercepted(network)  # what a method does to activations may read earlier ones
        one = image or plain and len(shapes[port.units[0]]) == 3
        self.reads = not port.apart and bool(port.outputs) and one
        self._begin = None if image else port.units[1]
        maps = [i for i, shape in enumerate(shapes.values()) if len(shape) == 4 and shape[1] * shape[2] > 1]
        self._at = maps[-1] if maps and image and plain else None
        self._integrate, self._weigh = jax.jit(self._integrated), jax.jit(self._weighted)

    def __call__(self, batch: Batch, blank: Batch, label: int) -> Attributed:
        """What adds to the logit of this class.

        Args:
          batch: one example, as the encodings give it.
          blank: the same fields of a blank input.
          label: the class.
        """
        shown, error = self._integrate(self._network.arrays, dict(batch), dict(blank), label)
        cam = None
        if self._at is not None:
            cam = np.asarray(self._weigh(self._network.arrays, dict(batch), label), np.float64)
            cam = cam / (cam.max() or 1)
        return Attributed(np.asarray(shown, np.float64)[0].sum(-1), float(error), cam)

    def _passed(self, arrays: Any, batch: Batch, x: Any, begin: str | None, end: str | None = None) -> Any:
        """What units `begin` to `end` give for x in place of the first field."""
        network, port = self._network.with_arrays(*arrays), self._network.port
        params, intercept = network.seen()
        fields = {**batch, port.inputs[0]: x}
        return port.apply(params, network.model_state, fields, intercept=intercept, begin=begin, end=end)[0]

    def _integrated(self, arrays: Any, batch: Batch, blank: Batch, label: Any) -> tuple[jax.Array, jax.Array]:
        port = self._network.port
        first, x = (fields[port.inputs[0]] for fields in (blank, batch))
        if self._begin is not None:
            first, x = (self._passed(arrays, batch, given, None, port.units[0]) for given in (first, x))

        def logit(x: jax.Array) -> jax.Array:
            return self._passed(arrays, batch, x, self._begin)[0, label]

        def step(total: jax.Array, share: jax.Array) -> tuple[jax.Array, None]:
            return total + jax.grad(logit)(first + share * (x - first)), None

        total, _ = jax.lax.scan(step, jnp.zeros_like(x), (jnp.arange(STEPS) + 0.5) / STEPS)
        shown, difference = (x - first) * total / STEPS, logit(x) - logit(first)
        return shown, jnp.abs(shown.sum() - difference) / jnp.maximum(jnp.abs(difference), 1e-12)

    def _weighted(self, arrays: Any, batch: Batch, label: Any) -> jax.Array:
        """[rows, columns]: the positive part of the channels' maps, weighted by their mean gradients."""
        units, x = self._network.port.units, batch[self._network.port.inputs[0]]
        maps = self._passed(arrays, batch, x, None, units[self._at])
        gradient = jax.grad(lambda maps: self._passed(arrays, batch, maps, units[self._at + 1])[0, label])(maps)
        return jax.nn.relu((maps * gradient.mean((1, 2), keepdims=True)).sum(-1))[0]


def _intercepted(network: Network) -> bool:
    """Whether the network's method changes activations, by a trace alone."""
    found: list[bool] = []

    def look(arrays: Any) -> Any:
        params, intercept = network.with_arrays(*arrays).seen()
        found.append(intercept is not None)
        return params

    jax.eval_shape(look, network.arrays)
    return found[0]
