"""BiT (Kolesnikov et al., 2019, arXiv:1912.11370): ResNet v2 with group norms and standardised convolutions.

| network | stage_sizes   | width |
|---------|---------------|-------|
| R50x1   | (3, 4, 6, 3)  | 64    |
| R50x3   | (3, 4, 6, 3)  | 192   |
| R101x1  | (3, 4, 23, 3) | 64    |
| R101x3  | (3, 4, 23, 3) | 192   |
| R152x2  | (3, 8, 36, 3) | 128   |
| R152x4  | (3, 8, 36, 3) | 256   |

`block="bottleneck"` with `padding="same"` and `same_pool=True` is the post-activation network of hybrid ViTs.
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
from jaxfer.models.convolutions import StandardisedConv
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import Dense, zeros
from jaxfer.models.options import ImageOptions, choice, option, positive, rate, size, sizes
from jaxfer.models.port import Port

HEADS = (POOLED, DENSE, EMBEDDING)
STAGES = 4  # at most: transformers and timm dilate a fifth


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """The module's table has the published sizes.

    Attributes:
      stage_sizes: residual blocks of each stage, four stages at most; every stage after the first halves the size.
      width: channels of the stem.
      widths: channels after each stage, multiples of 8; () is 4 times `width`, and doubles with each stage. The 3x3
        convolutions have a quarter of them, as a multiple of 8.
      groups: of channels, in each of which group norms count mean and variance.
      block: `preactivation` (norm and ReLU before each convolution: He et al., 2016, arXiv:1603.05027) or `bottleneck`
        (after it, as in `resnet`).
      padding: of convolutions, `symmetric` or `same`, TensorFlow's; the stem's pool has a line of zeros with the first.
      same_pool: the stem's pool is padded with zeros as TensorFlow does, after that.
      kernel_epsilon: added to the variance of kernels: 1e-10 in Google's code, 1e-8 in transformers and timm.
      stochastic_depth: drop rate of the last block's branch, linear in depth (arXiv:1603.09382).
    """

    stage_sizes: tuple[int, ...] = sizes((3, 4, 6, 3), of="stage")
    width: int = size(64)
    widths: tuple[int, ...] = sizes((), of="widths", empty=True)
    groups: int = size(32)
    block: str = choice("preactivation", ("preactivation", "bottleneck"))
    padding: str = choice("symmetric", ("symmetric", "same"))
    same_pool: bool = option(False)
    kernel_epsilon: float = positive(1e-8)
    stochastic_depth: float = rate(0.0)

    def check(self) -> None:
        super().check()
        stages = len(self.stage_sizes)
        if stages > STAGES:
            raise InputError(f"stage_sizes must be of at most {STAGES} stages, found {self.stage_sizes!r}")
        if self.widths and len(self.widths) != stages:
            raise InputError(f"widths must be () or a width for each of the {stages} stages, found {self.widths!r}")
        if odd := [width for width in self.features if width % 8]:
            raise InputError(f"widths must be multiples of 8, found {odd[0]}")
        normed = {self.width, *self.features, *map(inner, self.features)}
        if odd := sorted(width for width in normed if width % self.groups):
            raise InputError(f"groups={self.groups} must divide the channels of every norm, found {odd[0]}")
        if self.padding == "same" and not self.same_pool and min(self.image[:2]) < 5:
            raise InputError(f"image={self.image} is smaller than the 5 pixels of an unpadded stem; enlarge it")

    @property
    def features(self) -> tuple[int, ...]:
        """Channels after each stage."""
        return self.widths or tuple(4 * self.width * 2**stage for stage in range(len(self.stage_sizes)))

    def conv(self, features: int, side: int, stride: int, name: str) -> StandardisedConv:
        """A standardised convolution of this network."""
        padding = "same" if self.padding == "same" else side // 2
        return StandardisedConv(features, (side, side), stride, padding, epsilon=self.kernel_epsilon, name=name)

    def norm(self, name: str) -> nn.GroupNorm:
        """Normalisation in groups of channels; the two-pass variance is PyTorch's."""
        return nn.GroupNorm(self.groups, epsilon=1e-5, use_fast_variance=False, name=name)


def inner(features: int) -> int:
    """Channels of the 3x3 convolution: a quarter, to the next multiple of 8, which loses no more than a tenth."""
    rounded = max(8, int(features / 4 + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * features / 4 else rounded


class Stem(nn.Module):
    """7x7 convolution and max-pool, of stride 2 each: [batch, h, w, c] -> [batch, h / 4, w / 4, width].

    With the blocks of the other kind, a norm and a ReLU lie between them, of what is already padded.
    """

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        options = self.options
        x = options.conv(options.width, 7, 2, "conv")(x)
        x = x if options.padding == "same" else jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = nn.relu(options.norm("norm")(x)) if options.block == "bottleneck" else x
        x = jnp.pad(x, ((0, 0), *zeros(x.shape[1:3], (3, 3), 2, "same"), (0, 0))) if options.same_pool else x
        return kernels.valid_max_pool(x)


class Block(nn.Module):
    """`shortcut(x) + branch(x)`: 1x1, 3x3 and 1x1 convolutions, each after its norm and ReLU, or before them.

    Attributes:
      features: channels of the output.
      stride: of the 3x3 convolution and of the shortcut.
      projects: whether the shortcut is a convolution: of what the first norm gave, where norms come first.
      drop_rate: probability that a sample skips the branch in training.
    """

    options: Options
    features: int
    stride: int
    projects: bool
    drop_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        options, first = self.options, self.options.block == "preactivation"
        y, shortcut, width = x, x, inner(self.features)
        for i, (features, side, stride) in enumerate(
            ((width, 1, 1), (width, 3, self.stride), (self.features, 1, 1)), 1
        ):
            y = nn.relu(options.norm(f"norm_{i}")(y)) if first else y
            if i == 1 and self.projects:
                shortcut = options.conv(self.features, 1, self.stride, "shortcut_conv")(y)
                shortcut = shortcut if first else options.norm("shortcut_norm")(shortcut)
            y = options.conv(features, side, stride, f"conv_{i}")(y)
            y = y if first else options.norm(f"norm_{i}")(y)
            y = y if first or i == 3 else nn.relu(y)
        y = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), name="drop")(y, deterministic=not train)
        return shortcut + y if first else nn.relu(shortcut + y)


class Head(nn.Module):
    """Norm and ReLU (the other blocks have had theirs), mean over both axes, output layer: [batch, h, w, c] ->
    [batch, outputs]; the features for 0 outputs.

    With a `size` there is no mean: [batch, *size, outputs], enlarged as `DenseHead` does.
    """

    options: Options
    outputs: int
    size: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(self.options.norm("norm")(x)) if self.options.block == "preactivation" else x
        x = x if self.size else x.mean((1, 2))
        y = Dense((self.outputs,), name="out")(x) if self.outputs else x
        return jax.image.resize(y, (len(y), *self.size, self.outputs), "bilinear") if self.size else y


class BiT(Family):
    """The chain stem, block_0 ... block_{n-1} (counted over all stages), head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        units = {"stem": functools.partial(Stem, options)}
        rates = iter(linear_rates(options.stochastic_depth, sum(options.stage_sizes)))
        for stage, (blocks, features) in enumerate(zip(options.stage_sizes, options.features, strict=True)):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                units[f"block_{len(units) - 1}"] = functools.partial(
                    Block, options, features, stride, i == 0, next(rates)
                )
        return {**units, "head": functools.partial(Head, options, self.outputs, self.dense())}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A BiT with a head that is `pooled`, `dense` (outputs at every pixel) or `embedding` (the features)."""
    conv = r".*/(shortcut_)?conv(_\d)?/kernel"
    return family_port(
        BiT,
        options,
        outputs=outputs,
        head=head,
        input_axes=((conv, 3), (r"head/out/kernel", 1)),
        tensor_axes=((conv, 3), (".*", None)),
    )


SMALL = dict(stage_sizes=(1, 1), width=4, widths=(8, 16), groups=2, image=(15, 13, 3))
TINY = {"": SMALL, "bottleneck": dict(SMALL, block="bottleneck", padding="same", same_pool=True)}
