"""AlexNet as torchvision has it: "One weird trick" (Krizhevsky, 2014, arXiv:1404.5997), on one device.

Five convolutions of 64, 192, 384, 256 and 256 channels and two dense layers of 4096; a unit is a layer with weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn

from jaxfer.errors import InputError
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import EMBEDDING, POOLED
from jaxfer.models.options import ImageOptions, rate, size, sizes
from jaxfer.models.port import Port
from jaxfer.models.vgg import INPUT_AXES, TENSOR_AXES, Head, Hidden, Layer, chained

HEADS = (POOLED, EMBEDDING)
# (side of the window, stride, padding, side of the max-pool before it) of each convolution.
CONVS = ((11, 4, 2, 0), (5, 1, 2, 3), (3, 1, 1, 3), (3, 1, 1, 0), (3, 1, 1, 0))
LEAST = 63  # pixels: below, a max-pool has no place left


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """
    Attributes:
      widths: channels of the five convolutions.
      places: side of the grid of means that the last feature map becomes.
      hidden: channels of both dense layers before the output layer.
      dropout: rate on what these two read.
    """

    widths: tuple[int, ...] = sizes((64, 192, 384, 256, 256), of="convolution")
    places: int = size(6)
    hidden: int = size(4096)
    dropout: float = rate(0.5)

    def check(self) -> None:
        super().check()
        if len(self.widths) != len(CONVS):
            raise InputError(f"widths must have a width for each of the {len(CONVS)} convolutions, found {self.widths}")
        if min(self.image[:2]) < LEAST:
            raise InputError(f"image={self.image} is smaller than the {LEAST} pixels that AlexNet needs; enlarge it")


class AlexNet(Family):
    """The chain stem, block_0 ... block_5, head: five convolutions, two hidden dense layers, the output layer."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}; a max-pool is part of the unit after it."""
        options = self.options
        layers = [
            functools.partial(Layer, width, *shape, None) for width, shape in zip(options.widths, CONVS, strict=True)
        ]
        layers.append(functools.partial(Hidden, options.hidden, options.dropout, 3, options.places))
        layers.append(functools.partial(Hidden, options.hidden, options.dropout))
        return chained(layers, functools.partial(Head, self.outputs, 0.0))


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """An AlexNet with a head that is `pooled` or `embedding` (what its last hidden layer gives, 4096 channels)."""
    axes = dict(input_axes=INPUT_AXES, tensor_axes=TENSOR_AXES)
    return family_port(AlexNet, options, outputs=outputs, head=head, **axes)


TINY = {"": dict(widths=(3, 4, 5, 4, 3), places=2, hidden=6, image=(66, 63, 3))}
