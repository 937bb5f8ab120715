"""VGG (Simonyan and Zisserman, 2014, arXiv:1409.1556), with batch norms or without.

| network | stage_sizes     |
|---------|-----------------|
| VGG-11  | (1, 1, 2, 2, 2) |
| VGG-13  | (2, 2, 2, 2, 2) |
| VGG-16  | (2, 2, 3, 3, 3) |
| VGG-19  | (2, 2, 4, 4, 4) |

A unit is a layer with weights, as the paper counts them. `Layer`, `Hidden` and `Head` are AlexNet's parts too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import EMBEDDING, POOLED
from jaxfer.models.layers import BatchNorm, Conv, Dense, like
from jaxfer.models.options import ImageOptions, option, rate, size, sizes
from jaxfer.models.port import Port

HEADS = (POOLED, EMBEDDING)
Norm = Callable[..., BatchNorm]

INPUT_AXES = ((r".*/conv/kernel|.*/spread/kernel", 3), (r".*/(dense|out)/kernel", 1))
TENSOR_AXES = ((r".*/(conv|spread)/kernel", 3), (r".*/dense/kernel", 1), (".*", None))


def adaptive_mean(x: jax.Array, side: int) -> jax.Array:
    """[batch, h, w, c] -> [batch, side, side, c]: means of equal parts, as PyTorch's `AdaptiveAvgPool2d`.

    Part i is of the places from floor(i h / side) up to ceil((i + 1) h / side): parts overlap where h is no multiple,
    and repeat places where h is smaller.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        if size == side:
            continue
        weights = np.zeros((size, side), np.float32)
        for i in range(side):
            start, end = i * size // side, -(-(i + 1) * size // side)
            weights[start:end, i] = 1 / (end - start)
        parts = jnp.tensordot(x, like(jnp.asarray(weights), x), ((axis,), (0,)), precision="highest")
        x = jnp.moveaxis(parts, -1, axis)
    return x


class Layer(nn.Module):
    """Max-pool where `pool` is its side, convolution, norm where there is one, ReLU: [batch, h, w, c] likewise."""

    features: int
    side: int
    stride: int
    padding: int
    pool: int
    norm: Norm | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.max_pool(x, (self.pool, self.pool), (2, 2)) if self.pool else x
        x = Conv(self.features, (self.side, self.side), self.stride, self.padding, use_bias=True, name="conv")(x)
        x = x if self.norm is None else self.norm(name="norm")(x, use_running_average=not train)
        return nn.relu(x)


class Hidden(nn.Module):
    """Dropout, dense layer and ReLU: [batch, ...] -> [batch, width].

    Attributes:
      width: channels that it gives.
      dropout: rate on what it reads, after pooling.
      pool: side of the max-pool of stride 2 before it; 0 for a layer that reads no feature map.
      places: side of the grid of means that a feature map becomes.
    """

    width: int
    dropout: float
    pool: int = 0
    places: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.pool:
            x = adaptive_mean(nn.max_pool(x, (self.pool, self.pool), (2, 2)), self.places)
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        layer = Dense((self.width,), inputs=x.ndim - 1, name="spread" if self.pool else "dense")
        return nn.relu(layer(x))


class Head(nn.Module):
    """Dropout and the output layer: [batch, width] -> [batch, outputs]; the features for 0 outputs."""

    outputs: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not self.outputs:
            return x
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        return Dense((self.outputs,), name="out")(x)


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """The module's table has the published sizes.

    Attributes:
      stage_sizes: convolutions of each stage; each stage ends in a max-pool that halves the size.
      widths: channels of each stage.
      norm: whether each convolution has a batch norm.
      places: side of the grid of means that the last feature map becomes.
      hidden: channels of both dense layers before the output layer.
      dropout: rate on what the second and the third dense layer read.
    """

    stage_sizes: tuple[int, ...] = sizes((2, 2, 3, 3, 3), of="stage")
    widths: tuple[int, ...] = sizes((64, 128, 256, 512, 512), of="stage")
    norm: bool = option(False)
    places: int = size(7)
    hidden: int = size(4096)
    dropout: float = rate(0.5)

    def check(self) -> None:
        super().check()
        stages = len(self.stage_sizes)
        if len(self.widths) != stages:
            raise InputError(f"widths must have a width for each of the {stages} stages, found {self.widths!r}")
        if min(self.image[:2]) < 2**stages:
            raise InputError(f"image={self.image} is smaller than the {2**stages} pixels that {stages} stages need")


class VGG(Family):
    """The chain stem, block_0 ... block_{n-1}, head: the convolutions, then the two hidden dense layers."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}; the pool that ends a stage is part of the next unit."""
        options = self.options
        norm = functools.partial(BatchNorm, axis_name=self.axis_name) if options.norm else None
        layers = []
        for stage, (convs, width) in enumerate(zip(options.stage_sizes, options.widths, strict=True)):
            for i in range(convs):
                layers.append(functools.partial(Layer, width, 3, 1, 1, 2 if stage and not i else 0, norm))
        layers.append(functools.partial(Hidden, options.hidden, 0.0, 2, options.places))
        layers.append(functools.partial(Hidden, options.hidden, options.dropout))
        return chained(layers, functools.partial(Head, self.outputs, options.dropout))


def chained(
    layers: list[Callable[..., nn.Module]], head: Callable[..., nn.Module]
) -> dict[str, Callable[..., nn.Module]]:
    """{unit name: constructor}: the first layer is the stem."""
    names = ("stem", *(f"block_{i}" for i in range(len(layers) - 1)))
    return {**dict(zip(names, layers, strict=True)), "head": head}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A VGG with a head that is `pooled` or `embedding` (what its last hidden layer gives, 4096 channels)."""
    axes = dict(input_axes=INPUT_AXES, tensor_axes=TENSOR_AXES)
    return family_port(VGG, options, outputs=outputs, head=head, **axes)


TINY = {
    "plain": dict(stage_sizes=(1, 2), widths=(4, 5), places=2, hidden=6, image=(9, 7, 3)),
    "norm": dict(stage_sizes=(2, 1), widths=(4, 6), norm=True, places=3, hidden=9, image=(8, 10, 3)),
}
