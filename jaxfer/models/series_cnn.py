"""Residual network for series (Wang et al., 2017, arXiv:1611.06455): blocks of three convolutions over time.

The paper's network is `widths=(64, 128, 128)` without a stem. Here a stem precedes it, a convolution as wide as the
first block. Inside, a series is an image of one pixel's width: [b, length, 1, channels].
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax

from jaxfer.data.encodings.series import NORMALIZE, SeriesEncoding
from jaxfer.models import options as families
from jaxfer.models.family import Family, family_port
from jaxfer.models.layers import BatchNorm, Conv, PooledHead
from jaxfer.models.options import choice, rate, size, sizes
from jaxfer.models.port import Port

SIZES = (8, 5, 3)  # points in time that each convolution of a block sees


class Stem(nn.Module):
    """Convolution, norm, ReLU: [b, length, channels] -> [b, length, 1, width]."""

    width: int
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.width, (SIZES[0], 1), padding="same", name="conv")(x[:, :, None])
        return nn.relu(BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train))


class Projection(nn.Module):
    """The shortcut to another width: a convolution of one point, and its norm."""

    width: int
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.width, (1, 1), name="conv")(x)
        return BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train)


class Block(nn.Module):
    """`relu(shortcut(x) + branch(x))`: [b, length, 1, c] -> [b, length, 1, width]; the length stays."""

    width: int
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = x
        for i, points in enumerate(SIZES, 1):
            y = Conv(self.width, (points, 1), padding="same", name=f"conv_{i}")(y)
            y = BatchNorm(axis_name=self.axis_name, name=f"norm_{i}")(y, use_running_average=not train)
            y = nn.relu(y) if i < len(SIZES) else y
        if x.shape[-1] != self.width:
            x = Projection(self.width, self.axis_name, name="shortcut")(x, train=train)
        return nn.relu(x + y)


@dataclass(frozen=True, kw_only=True)
class Options(families.Options):
    """
    Attributes:
      widths: channels of each block; the stem has the first one's.
      dropout: drop rate in front of the output layer.
      length: points in time of a series; no parameter depends on it.
      channels: values at each of them.
      normalize: `each` series and channel to mean 0 and standard deviation 1, or `none`.
    """

    widths: tuple[int, ...] = sizes((64, 128, 128), of="width")
    dropout: float = rate(0.0)
    length: int = size(128, inputs=True)
    channels: int = size(1, inputs=True)
    normalize: str = choice("each", NORMALIZE, inputs=True)

    @property
    def encoding(self) -> SeriesEncoding:
        return SeriesEncoding(length=self.length, channels=self.channels, normalize=self.normalize)


class SeriesCNN(Family):
    """The chain stem, block_0 ... block_{n-1}, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        widths = self.options.widths
        blocks = {f"block_{i}": functools.partial(Block, width, self.axis_name) for i, width in enumerate(widths)}
        return {
            "stem": functools.partial(Stem, widths[0], self.axis_name),
            **blocks,
            "head": functools.partial(PooledHead, self.outputs, self.options.dropout),
        }


def port(options: Options, *, outputs: int) -> Port:
    """A residual network for series."""
    return family_port(
        SeriesCNN,
        options,
        outputs=outputs,
        input_axes=((r".*/conv(_\d)?/kernel", 3), (r"head/out/kernel", 1)),
        tensor_axes=((r".*/conv(_\d)?/kernel", 3), (".*", None)),
    )


TINY = {"": dict(widths=(4, 6), length=9)}
