"""ConvNeXt (Liu et al., 2022, arXiv:2201.03545), and with `grn` ConvNeXt V2 (Woo et al., 2023, arXiv:2301.00808).

| network            | stage_sizes   | widths                  |
|--------------------|---------------|-------------------------|
| V1 and V2 Atto     | (2, 2, 6, 2)  | (40, 80, 160, 320)      |
| V1 and V2 Femto    | (2, 2, 6, 2)  | (48, 96, 192, 384)      |
| V1 and V2 Pico     | (2, 2, 6, 2)  | (64, 128, 256, 512)     |
| V1 and V2 Nano     | (2, 2, 8, 2)  | (80, 160, 320, 640)     |
| V1 and V2 Tiny     | (3, 3, 9, 3)  | (96, 192, 384, 768)     |
| V1 Small           | (3, 3, 27, 3) | (96, 192, 384, 768)     |
| V1 and V2 Base     | (3, 3, 27, 3) | (128, 256, 512, 1024)   |
| V1 and V2 Large    | (3, 3, 27, 3) | (192, 384, 768, 1536)   |
| V1 XLarge          | (3, 3, 27, 3) | (256, 512, 1024, 2048)  |
| V2 Huge            | (3, 3, 27, 3) | (352, 704, 1408, 2816)  |

V1 of Nano and below, and XXLarge ((3, 4, 30, 3), widths from 384), are timm's.
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
from jaxfer.models.chain import linear_rates
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import Conv, Dense, Depthwise, like
from jaxfer.models.options import ImageOptions, option, positive, rate, size, sizes
from jaxfer.models.port import Port
from jaxfer.models.transformer import layer_norm

HEADS = (POOLED, DENSE, EMBEDDING)
EXPANSION = 4  # hidden channels of an MLP per channel of its block
GRN_EPSILON = 1e-6


class Stem(nn.Module):
    """Non-overlapping patches and their norm: [batch, h, w, c] -> [batch, h / patch, w / patch, width]."""

    width: int
    patch: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.width, (self.patch, self.patch), self.patch, use_bias=True, name="conv")(x)
        return layer_norm(self.epsilon, "norm")(x)


class Down(nn.Module):
    """Norm, then a 2x2 convolution of stride 2: [batch, h, w, c] -> [batch, h / 2, w / 2, width]."""

    width: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layer_norm(self.epsilon, "norm")(x)
        return Conv(self.width, (2, 2), 2, use_bias=True, name="conv")(x)


class ResponseNorm(nn.Module):
    """Global response normalisation (arXiv:2301.00808, eq. 1 to 3): channels compete by their norm over all places.

    `x + scale * x * |x| / mean(|x|) + bias`, the norm over both axes, the mean over channels; [batch, h, w, c].
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale, bias = (self.param(name, nn.initializers.zeros, x.shape[-1:]) for name in ("scale", "bias"))
        squares = jnp.square(x.astype(jnp.float32)).sum((1, 2), keepdims=True)
        alive = squares > 0  # the root has no gradient at 0
        norms = jnp.where(alive, jnp.sqrt(jnp.where(alive, squares, 1.0)), 0.0)
        response = norms / (norms.mean(-1, keepdims=True) + GRN_EPSILON)
        return x + x * like(response * scale, x) + like(bias, x)


class Mlp(nn.Module):
    """Two dense layers at every place, with a GELU between them and, in V2, `grn` after it."""

    grn: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = kernels.gelu(Dense((x.shape[-1] * EXPANSION,), name="fc1")(x))
        y = ResponseNorm(name="grn")(y) if self.grn else y
        return Dense((x.shape[-1],), name="fc2")(y)


class Block(nn.Module):
    """`x + scale * mlp(norm(depthwise(x)))`, the depthwise windows 7x7; V2 has no `scale`.

    Attributes:
      down: width of a `Down` before it, where a stage begins; 0: none.
      grn: V2's MLP in place of a layer scale.
      scale_init: the layer scale at the start.
      epsilon: of its norms.
      drop_rate: probability that a sample skips the branch in training.
    """

    down: int
    grn: bool
    scale_init: float
    epsilon: float
    drop_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Down(self.down, self.epsilon, name="down")(x) if self.down else x
        y = Depthwise((7, 7), padding=3, use_bias=True, name="depthwise")(x)
        y = Mlp(self.grn, name="mlp")(layer_norm(self.epsilon, "norm")(y))
        if not self.grn:
            y = y * like(self.param("scale", nn.initializers.constant(self.scale_init), y.shape[-1:]), y)
        drop = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), name="drop")
        return x + drop(y, deterministic=not train)


class Head(nn.Module):
    """Mean over both axes, norm, dropout, output layer: [batch, h, w, c] -> [batch, outputs]; features for 0 outputs.

    With a `size` there is no mean: [batch, *size, outputs], enlarged as `DenseHead` does.
    """

    outputs: int
    epsilon: float
    dropout: float
    size: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = layer_norm(self.epsilon, "norm")(x if self.size else x.mean((1, 2)))
        if not self.outputs:
            return x
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        y = Dense((self.outputs,), name="out")(x)
        return jax.image.resize(y, (len(y), *self.size, self.outputs), "bilinear") if self.size else y


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """The module's table has the published sizes.

    Attributes:
      stage_sizes: blocks of each stage; every stage after the first halves the size.
      widths: channels of each stage.
      patch: pixels of a side of the stem's patches.
      grn: V2: global response normalisation inside the MLPs, and no layer scale.
      layer_scale_init: V1's layer scales at the start; a checkpoint brings its own.
      epsilon: of every LayerNorm but the head's.
      head_epsilon: of the head's; checkpoints of Hugging Face transformers say 1e-12.
      dropout: rate before the output layer.
      stochastic_depth: drop rate of the last block's branch, linear in depth from 0 in the first (arXiv:1603.09382).
    """

    stage_sizes: tuple[int, ...] = sizes((3, 3, 9, 3), of="stage")
    widths: tuple[int, ...] = sizes((96, 192, 384, 768), of="stage")
    patch: int = size(4)
    grn: bool = option(False)
    layer_scale_init: float = positive(1e-6, training=True)
    epsilon: float = positive(1e-6)
    head_epsilon: float = positive(1e-6)
    dropout: float = rate(0.0)
    stochastic_depth: float = rate(0.0)

    def check(self) -> None:
        super().check()
        if len(self.widths) != len(self.stage_sizes):
            raise InputError(
                f"widths must have a width for each of the {len(self.stage_sizes)} stages, found {self.widths!r}"
            )
        least = self.patch * 2 ** (len(self.stage_sizes) - 1)
        if min(self.image[:2]) < least:
            raise InputError(
                f"image={self.image} is smaller than the {least} pixels that patch={self.patch} and "
                f"{len(self.stage_sizes)} stages make one place of; enlarge it"
            )


class ConvNeXt(Family):
    """The chain stem, block_0 ... block_{n-1} (counted over all stages), head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}; what makes a stage smaller is part of its first block."""
        options = self.options
        units = {"stem": functools.partial(Stem, options.widths[0], options.patch, options.epsilon)}
        rates = iter((0.0, *linear_rates(options.stochastic_depth, sum(options.stage_sizes) - 1)))
        for stage, (blocks, width) in enumerate(zip(options.stage_sizes, options.widths, strict=True)):
            for i in range(blocks):
                units[f"block_{len(units) - 1}"] = functools.partial(
                    Block,
                    width if stage and not i else 0,
                    options.grn,
                    options.layer_scale_init,
                    options.epsilon,
                    next(rates),
                )
        head = functools.partial(Head, self.outputs, options.head_epsilon, options.dropout, self.dense())
        return {**units, "head": head}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A ConvNeXt with a head that is `pooled`, `dense` (outputs at every pixel) or `embedding` (the normed mean)."""
    return family_port(
        ConvNeXt,
        options,
        outputs=outputs,
        head=head,
        input_axes=((r".*/conv/kernel", 3), (r".*/(fc1|fc2|out)/kernel", 1)),
        tensor_axes=(
            (r".*/(conv/kernel|window)", 3),
            (r".*/mlp/fc1/kernel", 1),
            (r".*/mlp/(fc1/bias|grn/(scale|bias)|fc2/kernel)", 0),
            (".*", None),
        ),
    )


TINY = {
    "v1": dict(stage_sizes=(1, 2), widths=(4, 6), patch=2, layer_scale_init=0.5, image=(9, 7, 3)),
    "v2": dict(stage_sizes=(1, 1), widths=(3, 5), patch=3, grn=True, image=(8, 10, 3)),
}
