"""ResNet: post-activation residual networks (He et al., 2015, arXiv:1512.03385), for ImageNet and for CIFAR sizes.

| network         | block      | stage_sizes   | width |
|-----------------|------------|---------------|-------|
| ResNet-18       | basic      | (2, 2, 2, 2)  | 64    |
| ResNet-34       | basic      | (3, 4, 6, 3)  | 64    |
| ResNet-50       | bottleneck | (3, 4, 6, 3)  | 64    |
| ResNet-101      | bottleneck | (3, 4, 23, 3) | 64    |
| ResNet-152      | bottleneck | (3, 8, 36, 3) | 64    |
| CIFAR ResNet-20 | basic      | (3, 3, 3)     | 16    |
| 32, 44, 56, 110 | basic      | (n, n, n), n = 5, 7, 9, 18 | 16 |

The CIFAR networks take `stem="cifar"`, `shortcut="padding"` and `image=(32, 32, 3)`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models import kernels
from jaxfer.models.chain import (
    Chain,
    check_choice,
    check_positive,
    check_rate,
    image_encoding,
    linear_rates,
)
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import BatchNorm, Conv, Dense, DenseHead
from jaxfer.models.port import Port

BLOCKS = ("basic", "bottleneck")
HEADS = (POOLED, DENSE, EMBEDDING)
STEMS = ("imagenet", "cifar")
SHORTCUTS = ("projection", "padding")
EXPANSION = 4  # output channels of a bottleneck per channel of its 3x3 convolution


class Stem(nn.Module):
    """[batch, h, w, c] -> [batch, h', w', width]; `imagenet` halves the size twice, `cifar` keeps it."""

    width: int
    kind: str
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        size, stride = (7, 2) if self.kind == "imagenet" else (3, 1)
        x = Conv(self.width, (size, size), stride, size // 2, name="conv")(x)
        x = nn.relu(BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train))
        return kernels.max_pool(x) if self.kind == "imagenet" else x


class Projection(nn.Module):
    """The learned shortcut: a 1x1 convolution to the shape of the residual branch, and its norm."""

    features: int
    stride: int
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.features, (1, 1), self.stride, name="conv")(x)
        return BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train)


class Block(nn.Module):
    """`relu(shortcut(x) + branch(x))`, where the branch is a stack of convolutions, each with its norm.

    Attributes:
      convs: (features, size, stride) of each convolution of the branch.
      shortcut_kind: `projection` or `padding`; used only where the shape changes.
      drop_rate: probability that a sample skips the branch in training.
    """

    convs: tuple[tuple[int, int, int], ...]
    shortcut_kind: str
    drop_rate: float
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = x
        for i, (features, size, stride) in enumerate(self.convs, 1):
            y = Conv(features, (size, size), stride, size // 2, name=f"conv_{i}")(y)
            y = BatchNorm(axis_name=self.axis_name, name=f"norm_{i}")(y, use_running_average=not train)
            y = nn.relu(y) if i < len(self.convs) else y
        y = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), name="drop")(y, deterministic=not train)
        return nn.relu(self._skip(x, train) + y)

    @nn.nowrap
    def _skip(self, x: jax.Array, train: bool) -> jax.Array:
        features = self.convs[-1][0]
        stride = max(stride for _, _, stride in self.convs)
        # Decided by stride, not by size, so that the parameters do not depend on the image.
        if stride == 1 and features == x.shape[-1]:
            return x
        if self.shortcut_kind == "projection":
            return Projection(features, stride, self.axis_name, name="shortcut")(x, train=train)
        low = (features - x.shape[-1]) // 2
        return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (low, features - x.shape[-1] - low)))


class Head(nn.Module):
    """Global average pool and the output layer: [batch, h, w, c] -> [batch, outputs]; the features for 0 outputs."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pooled = x.mean((1, 2))
        return Dense((self.outputs,), name="out")(pooled) if self.outputs else pooled


class ResNet(Chain, kw_only=True):
    """The chain stem, block_0 ... block_{n-1} (counted over all stages), head; fields as the options of `port`.

    Attributes:
      dense: (height, width) of a dense head's outputs; () for the pooled head.
    """

    outputs: int
    dense: tuple[int, ...]
    stage_sizes: tuple[int, ...]
    width: int
    widths: tuple[int, ...]
    block: str
    stem_kind: str
    shortcut_kind: str
    stride_in_1x1: bool
    stochastic_depth: float

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        units = {"stem": functools.partial(Stem, self.width, self.stem_kind, self.axis_name)}
        rates = iter(linear_rates(self.stochastic_depth, sum(self.stage_sizes)))
        for stage, blocks in enumerate(self.stage_sizes):
            for i in range(blocks):
                convs = self._convs(self.widths[stage], 2 if stage > 0 and i == 0 else 1)
                units[f"block_{len(units) - 1}"] = functools.partial(
                    Block, convs, self.shortcut_kind, next(rates), self.axis_name
                )
        head = functools.partial(DenseHead, size=self.dense) if self.dense else Head
        return {**units, "head": functools.partial(head, self.outputs)}

    @nn.nowrap
    def features(self) -> tuple[int, ...]:
        """Channels after the stem and after each stage."""
        return (self.width, *(self._convs(width, 1)[-1][0] for width in self.widths))

    @nn.nowrap
    def _convs(self, width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
        if self.block == "basic":
            return (width, 3, stride), (width, 3, 1)
        first, second = (stride, 1) if self.stride_in_1x1 else (1, stride)
        return (width, 1, first), (width, 3, second), (width * EXPANSION, 1, 1)


def port(
    *,
    outputs: int,
    head: str = POOLED,
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2),
    width: int = 64,
    widths: tuple[int, ...] = (),
    block: str = "basic",
    stem: str = "imagenet",
    shortcut: str = "projection",
    stride_in_1x1: bool = False,
    stochastic_depth: float = 0.0,
    image: tuple[int, int, int] = (224, 224, 3),
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    interpolation: str = "bilinear",
    resize: tuple[int, ...] = (),
) -> Port:
    """A ResNet; the module's table has the published sizes.

    Args:
      outputs: outputs of the head.
      head: `pooled`, `dense` for outputs at every pixel of the input, or `embedding` for the features.
      stage_sizes: residual blocks of each stage; every stage after the first halves the size.
      width: channels of the stem and, unless `widths` says otherwise, of the first stage's 3x3 convolutions.
      widths: channels of each stage's 3x3 convolutions; () doubles `width` with each stage.
      block: `basic` (two 3x3) or `bottleneck` (1x1, 3x3, 1x1 with 4 times the width).
      stem: `imagenet` (7x7 of stride 2 and a 3x3 max-pool of stride 2) or `cifar` (3x3 of stride 1).
      shortcut: where the shape changes, `projection` (1x1 convolution and norm) or `padding` (subsampling and zero
        channels, half on each side: option A of the paper).
      stride_in_1x1: a bottleneck strides in its first 1x1 (the paper's v1), not in its 3x3 (v1.5, most checkpoints).
      stochastic_depth: drop rate of the last block's branch, linear in depth (arXiv:1603.09382).
      image: (height, width, channels).
      mean: per channel, of pixels in [0, 1]; empty: ImageNet's for three channels, else 0.5.
      std: likewise.
      interpolation: `nearest`, `bilinear`, `bicubic`, `lanczos`, `box` or `hamming`.
      resize: before the centre is cut out: () to the image's size, (shorter edge,) or (height, width).

    Raises:
      InputError: an option has no such value, or two don't go together.
    """
    check_positive(width=width, **({} if head == EMBEDDING else {"outputs": outputs}))
    if not isinstance(stage_sizes, tuple) or not stage_sizes:
        raise InputError(f"stage_sizes must be a tuple of at least one stage, found {stage_sizes!r}; give e.g. (2, 2)")
    check_positive(**{f"stage_sizes[{i}]": blocks for i, blocks in enumerate(stage_sizes)})
    if widths and (not isinstance(widths, tuple) or len(widths) != len(stage_sizes)):
        raise InputError(f"widths must be () or a width for each of the {len(stage_sizes)} stages, found {widths!r}")
    widths = widths or tuple(width * 2**stage for stage in range(len(stage_sizes)))
    check_positive(**{f"widths[{i}]": size for i, size in enumerate(widths)})
    check_choice("block", block, BLOCKS)
    check_choice("stem", stem, STEMS)
    check_choice("shortcut", shortcut, SHORTCUTS)
    check_rate(stochastic_depth=stochastic_depth)
    if stride_in_1x1 and block == "basic":
        raise InputError("stride_in_1x1=True needs block='bottleneck', found 'basic'; a basic block has no 1x1")
    module = ResNet(
        outputs=outputs,
        dense=image[:2] if head == DENSE else (),
        stage_sizes=stage_sizes,
        width=width,
        widths=widths,
        block=block,
        stem_kind=stem,
        shortcut_kind=shortcut,
        stride_in_1x1=stride_in_1x1,
        stochastic_depth=stochastic_depth,
    )
    if shortcut == "padding" and list(module.features()) != sorted(module.features()):
        raise InputError(f"shortcut='padding' adds channels, found stages of {module.features()}; use 'projection'")
    return Port(
        module=module,
        units=tuple(module.units()),
        head="head/out",
        input_axes=((r".*/conv(_\d)?/kernel", 3), (r"head/out/kernel", 1)),
        encodings=(image_encoding(image, mean, std, interpolation, resize),),
        tensor_axes=((r".*/conv(_\d)?/kernel", 3), (".*", None)),
    )
