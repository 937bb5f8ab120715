"""DenseNet-BC (Huang et al., 2016, arXiv:1608.06993): every layer reads what all layers of its stage before it gave.

| network      | stage_sizes      | growth | width |
|--------------|------------------|--------|-------|
| DenseNet-121 | (6, 12, 24, 16)  | 32     | 64    |
| DenseNet-161 | (6, 12, 36, 24)  | 48     | 96    |
| DenseNet-169 | (6, 12, 32, 32)  | 32     | 64    |
| DenseNet-201 | (6, 12, 48, 32)  | 32     | 64    |
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models import kernels
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import BatchNorm, Conv, Dense
from jaxfer.models.options import ImageOptions, rate, size, sizes
from jaxfer.models.port import Port

HEADS = (POOLED, DENSE, EMBEDDING)


def normed(x: jax.Array, axis_name: str | None, name: str, *, train: bool) -> jax.Array:
    """ReLU of the batch norm called `name`, in the module that calls it."""
    return nn.relu(BatchNorm(axis_name=axis_name, name=name)(x, use_running_average=not train))


class Stem(nn.Module):
    """7x7 convolution, norm, ReLU and max-pool, of stride 2 each: [batch, h, w, c] -> [batch, h / 4, w / 4, width]."""

    width: int
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.width, (7, 7), 2, 3, name="conv")(x)
        return kernels.max_pool(normed(x, self.axis_name, "norm", train=train))


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution, 2x2 mean: [batch, h, w, c] -> [batch, h / 2, w / 2, c / 2], rounded down."""

    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = Conv(x.shape[-1] // 2, (1, 1), name="conv")(normed(x, self.axis_name, "norm", train=train))
        return nn.avg_pool(y, (2, 2), (2, 2))


class Block(nn.Module):
    """One dense layer; what it gives comes behind what it reads: [batch, h, w, c] -> [batch, h, w, c + growth].

    Attributes:
      begins: whether a stage after the first begins here, with its `Transition`.
      growth: channels that it adds.
      inner: channels of its 1x1 convolution.
      dropout: rate on what it adds.
    """

    begins: bool
    growth: int
    inner: int
    dropout: float
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Transition(self.axis_name, name="transition")(x, train=train) if self.begins else x
        y = Conv(self.inner, (1, 1), name="conv_1")(normed(x, self.axis_name, "norm_1", train=train))
        y = Conv(self.growth, (3, 3), 1, 1, name="conv_2")(normed(y, self.axis_name, "norm_2", train=train))
        y = nn.Dropout(self.dropout, name="drop")(y, deterministic=not train)
        return jnp.concatenate([x, y], -1)


class Head(nn.Module):
    """Norm, ReLU, mean over both axes, output layer: [batch, h, w, c] -> [batch, outputs]; features for 0 outputs.

    With a `size` there is no mean: [batch, *size, outputs], enlarged as `DenseHead` does.
    """

    outputs: int
    size: tuple[int, ...]
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = normed(x, self.axis_name, "norm", train=train)
        x = x if self.size else x.mean((1, 2))
        y = Dense((self.outputs,), name="out")(x) if self.outputs else x
        return jax.image.resize(y, (len(y), *self.size, self.outputs), "bilinear") if self.size else y


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """The module's table has the published sizes.

    Attributes:
      stage_sizes: dense layers of each stage; every stage after the first halves the size and the channels.
      growth: channels that a layer adds (the paper's k).
      width: channels of the stem.
      bottleneck: channels of a layer's 1x1 convolution are so many times `growth`.
      dropout: rate on what each layer adds.
    """

    stage_sizes: tuple[int, ...] = sizes((6, 12, 24, 16), of="stage")
    growth: int = size(32)
    width: int = size(64)
    bottleneck: int = size(4)
    dropout: float = rate(0.0)

    def check(self) -> None:
        super().check()
        least = 4 * 2 ** (len(self.stage_sizes) - 1) - 3  # the convolution and the pool of the stem round up
        if min(self.image[:2]) < least:
            raise InputError(
                f"image={self.image} is smaller than the {least} pixels that {len(self.stage_sizes)} stages make one "
                "place of; enlarge it"
            )


class DenseNet(Family):
    """The chain stem, block_0 ... block_{n-1} (dense layers, counted over all stages), head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}; the transition to a stage is part of its first layer, the last norm of the head."""
        options = self.options
        units = {"stem": functools.partial(Stem, options.width, self.axis_name)}
        inner = options.growth * options.bottleneck
        for stage, layers in enumerate(options.stage_sizes):
            for i in range(layers):
                units[f"block_{len(units) - 1}"] = functools.partial(
                    Block, stage > 0 and i == 0, options.growth, inner, options.dropout, self.axis_name
                )
        return {**units, "head": functools.partial(Head, self.outputs, self.dense(), self.axis_name)}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A DenseNet with a head that is `pooled`, `dense` (outputs at every pixel) or `embedding` (the features)."""
    return family_port(
        DenseNet,
        options,
        outputs=outputs,
        head=head,
        input_axes=((r".*/conv(_\d)?/kernel", 3), (r"head/out/kernel", 1)),
        tensor_axes=((r".*/conv(_\d)?/kernel", 3), (".*", None)),
    )


TINY = {"": dict(stage_sizes=(2, 1), growth=3, width=5, bottleneck=2, image=(18, 14, 3))}
