"""Residual network for series (Wang et al., 2017, arXiv:1611.06455): blocks of three convolutions over time.

The paper's network is `widths=(64, 128, 128)` without a stem. Here a stem precedes it, a convolution as wide as the
first block. Inside, a series is an image of one pixel's width: [b, length, 1, channels].
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from jaxfer.data.encodings.series import NORMALIZE, SeriesEncoding
from jaxfer.errors import InputError
from jaxfer.models.chain import Chain, check_choice, check_positive, check_rate
from jaxfer.models.layers import BatchNorm, Conv, PooledHead
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
        for i, size in enumerate(SIZES, 1):
            y = Conv(self.width, (size, 1), padding="same", name=f"conv_{i}")(y)
            y = BatchNorm(axis_name=self.axis_name, name=f"norm_{i}")(y, use_running_average=not train)
            y = nn.relu(y) if i < len(SIZES) else y
        if x.shape[-1] != self.width:
            x = Projection(self.width, self.axis_name, name="shortcut")(x, train=train)
        return nn.relu(x + y)


class SeriesCNN(Chain, kw_only=True):
    """The chain stem, block_0 ... block_{n-1}, head; fields as the options of `port`."""

    outputs: int
    widths: tuple[int, ...]
    dropout: float

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        blocks = {f"block_{i}": functools.partial(Block, width, self.axis_name) for i, width in enumerate(self.widths)}
        return {
            "stem": functools.partial(Stem, self.widths[0], self.axis_name),
            **blocks,
            "head": functools.partial(PooledHead, self.outputs, self.dropout),
        }


def port(
    *,
    outputs: int,
    widths: tuple[int, ...] = (64, 128, 128),
    dropout: float = 0.0,
    length: int = 128,
    channels: int = 1,
    normalize: str = "each",
) -> Port:
    """A residual network for series.

    Args:
      outputs: outputs of the head.
      widths: channels of each block; the stem has the first one's.
      dropout: drop rate in front of the output layer.
      length: points in time of a series; no parameter depends on it.
      channels: values at each of them.
      normalize: `each` series and channel to mean 0 and standard deviation 1, or `none`.

    Raises:
      InputError: an option has no such value.
    """
    check_positive(outputs=outputs, length=length, channels=channels)
    if not isinstance(widths, tuple) or not widths:
        raise InputError(f"widths must be a tuple of at least one block's, found {widths!r}; give e.g. (64, 128, 128)")
    check_positive(**{f"widths[{i}]": width for i, width in enumerate(widths)})
    check_rate(dropout=dropout)
    check_choice("normalize", normalize, NORMALIZE)
    module = SeriesCNN(outputs=outputs, widths=widths, dropout=dropout)
    return Port(
        module=module,
        units=tuple(module.units()),
        head="head/out",
        input_axes=((r".*/conv(_\d)?/kernel", 3), (r"head/out/kernel", 1)),
        encodings=(SeriesEncoding(length=length, channels=channels, normalize=normalize),),
        tensor_axes=((r".*/conv(_\d)?/kernel", 3), (".*", None)),
    )
