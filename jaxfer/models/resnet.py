"""ResNet: post-activation residual networks (He et al., 2015, arXiv:1512.03385), for ImageNet and for CIFAR sizes.

Wide ResNets (arXiv:1605.07146), ResNeXts (arXiv:1611.05431), SE-ResNets (arXiv:1709.01507) and the stems and shortcuts
of ResNet-C and -D (arXiv:1812.01187) differ from them by an option each.

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

| variant of a bottleneck network | options |
|---------------------------------|---------|
| wide_resnetN_2                  | base_width=128 |
| resnextN_32x4d                  | groups=32, base_width=4 |
| seresnetN                       | squeeze=True |
| resnetNc, resnetNd              | stem="deep", d: shortcut="average" |
| resnetNt                        | stem="tiered", shortcut="average" |
| resnetNs                        | stem="deep", width=128, widths=(64, 128, 256, 512) |
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
from jaxfer.models.convolutions import GroupedConv, SqueezeExcite, average_pool
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import BatchNorm, Conv, Dense, DenseHead
from jaxfer.models.options import ImageOptions, choice, option, rate, size, sizes
from jaxfer.models.port import Port

HEADS = (POOLED, DENSE, EMBEDDING)
EXPANSION = 4  # output channels of a bottleneck per channel of its stage's width
BASE = 64  # width of the first stage, by which the width of grouped 3x3 convolutions is counted


class Stem(nn.Module):
    """[batch, h, w, c] -> [batch, h', w', width]; `cifar` keeps the size, the others halve it twice."""

    width: int
    kind: str
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        first, *more = stem_widths(self.width, self.kind)
        size, stride = (7, 2) if self.kind == "imagenet" else (3, 1 if self.kind == "cifar" else 2)
        x = Conv(first, (size, size), stride, size // 2, name="conv")(x)
        x = nn.relu(BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train))
        for i, width in enumerate(more, 1):
            x = Conv(width, (3, 3), 1, 1, name=f"conv_{i}")(x)
            x = nn.relu(BatchNorm(axis_name=self.axis_name, name=f"norm_{i}")(x, use_running_average=not train))
        return x if self.kind == "cifar" else kernels.max_pool(x)


def stem_widths(width: int, kind: str) -> tuple[int, ...]:
    """Channels of each convolution of a stem."""
    half = width // 2
    return {"deep": (half, half, width), "tiered": (half // 4 * 3, half, width)}.get(kind, (width,))


class Projection(nn.Module):
    """The learned shortcut: a 1x1 convolution to the shape of the residual branch, and its norm.

    It strides, or with `average` it reads the 2x2 means of stride 2 (He et al., 2018, arXiv:1812.01187, ResNet-D).
    """

    features: int
    stride: int
    average: bool
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        averaged = self.average and self.stride > 1
        x = average_pool(x) if averaged else x
        x = Conv(self.features, (1, 1), 1 if averaged else self.stride, name="conv")(x)
        return BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train)


class Block(nn.Module):
    """`relu(shortcut(x) + branch(x))`, where the branch is a stack of convolutions, each with its norm.

    Attributes:
      convs: (features, size, stride) of each convolution of the branch.
      shortcut_kind: `projection`, `average` or `padding`; used only where the shape changes.
      groups: of channels, in the 3x3 convolution of a bottleneck.
      squeeze: hidden channels of the gate after the branch; 0: none.
      drop_rate: probability that a sample skips the branch in training.
    """

    convs: tuple[tuple[int, int, int], ...]
    shortcut_kind: str
    drop_rate: float
    axis_name: str | None
    groups: int = 1
    squeeze: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = x
        for i, (features, side, stride) in enumerate(self.convs, 1):
            grouped = self.groups > 1 and side > 1
            conv = functools.partial(GroupedConv, groups=self.groups) if grouped else Conv
            y = conv(features, (side, side), stride, side // 2, name=f"conv_{i}")(y)
            y = BatchNorm(axis_name=self.axis_name, name=f"norm_{i}")(y, use_running_average=not train)
            y = nn.relu(y) if i < len(self.convs) else y
        y = SqueezeExcite(self.squeeze, name="gate")(y) if self.squeeze else y
        y = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), name="drop")(y, deterministic=not train)
        return nn.relu(self._skip(x, train) + y)

    @nn.nowrap
    def _skip(self, x: jax.Array, train: bool) -> jax.Array:
        features = self.convs[-1][0]
        stride = max(stride for _, _, stride in self.convs)
        # Decided by stride, not by size, so that the parameters do not depend on the image.
        if stride == 1 and features == x.shape[-1]:
            return x
        if self.shortcut_kind != "padding":
            averages = self.shortcut_kind == "average"
            return Projection(features, stride, averages, self.axis_name, name="shortcut")(x, train=train)
        low = (features - x.shape[-1]) // 2
        return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (low, features - x.shape[-1] - low)))


class Head(nn.Module):
    """Global average pool and the output layer: [batch, h, w, c] -> [batch, outputs]; the features for 0 outputs."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pooled = x.mean((1, 2))
        return Dense((self.outputs,), name="out")(pooled) if self.outputs else pooled


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """The module's table has the published sizes.

    Attributes:
      stage_sizes: residual blocks of each stage; every stage after the first halves the size.
      width: channels of the stem and, unless `widths` says otherwise, of the first stage's 3x3 convolutions.
      widths: channels of each stage's 3x3 convolutions; () doubles `width` with each stage. A bottleneck ends in 4
        times as many, whatever the next two options say.
      base_width: a bottleneck's 3x3 convolutions have groups * floor(widths * base_width / 64) channels.
      groups: of channels, within which a bottleneck's 3x3 convolutions sum.
      squeeze: each branch ends in a squeeze-and-excitation gate, whose hidden channels are a 16th of the branch's, as
        a multiple of 8.
      block: `basic` (two 3x3) or `bottleneck` (1x1, 3x3, 1x1 with 4 times the width).
      stem: `imagenet` (7x7 of stride 2 and a 3x3 max-pool of stride 2), `cifar` (3x3 of stride 1), or in place of the
        7x7 three 3x3 convolutions: `deep` (half the width, half, all of it) or `tiered` (3 eighths, half, all).
      shortcut: where the shape changes, `projection` (1x1 convolution and norm), `average` (the same, of 2x2 means in
        place of a stride) or `padding` (subsampling and zero channels, half on each side: option A of the paper).
      stride_in_1x1: a bottleneck strides in its first 1x1 (the paper's v1), not in its 3x3 (v1.5, most checkpoints).
      stochastic_depth: drop rate of the last block's branch, linear in depth (arXiv:1603.09382).
    """

    stage_sizes: tuple[int, ...] = sizes((2, 2, 2, 2), of="stage")
    width: int = size(64)
    widths: tuple[int, ...] = sizes((), of="widths", empty=True)
    base_width: int = size(BASE)
    groups: int = size(1)
    squeeze: bool = option(False)
    block: str = choice("basic", ("basic", "bottleneck"))
    stem: str = choice("imagenet", ("imagenet", "cifar", "deep", "tiered"))
    shortcut: str = choice("projection", ("projection", "average", "padding"))
    stride_in_1x1: bool = option(False)
    stochastic_depth: float = rate(0.0)

    def check(self) -> None:
        super().check()
        if self.widths and len(self.widths) != len(self.stage_sizes):
            stages = len(self.stage_sizes)
            raise InputError(f"widths must be () or a width for each of the {stages} stages, found {self.widths!r}")
        if self.stride_in_1x1 and self.block == "basic":
            raise InputError("stride_in_1x1=True needs block='bottleneck', found 'basic'; a basic block has no 1x1")
        if self.block == "basic" and (self.groups, self.base_width) != (1, BASE):
            raise InputError(
                f"groups={self.groups} and base_width={self.base_width} need block='bottleneck', found 'basic'"
            )
        if not all(self._inner(width) for width in self.stage_widths):
            raise InputError(f"base_width={self.base_width} leaves no channel of widths {self.stage_widths}; raise it")
        if min(stem_widths(self.width, self.stem)) < 1:
            raise InputError(f"stem={self.stem!r} needs a width of at least 8, found {self.width}")
        if self.shortcut == "padding" and list(self.features) != sorted(self.features):
            raise InputError(f"shortcut='padding' adds channels, found stages of {self.features}; use 'projection'")

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage's 3x3 convolutions."""
        return self.widths or tuple(self.width * 2**stage for stage in range(len(self.stage_sizes)))

    @property
    def features(self) -> tuple[int, ...]:
        """Channels after the stem and after each stage."""
        return (self.width, *(self.convs(width, 1)[-1][0] for width in self.stage_widths))

    def convs(self, width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
        """(features, size, stride) of each convolution of a block."""
        if self.block == "basic":
            return (width, 3, stride), (width, 3, 1)
        first, second = (stride, 1) if self.stride_in_1x1 else (1, stride)
        inner = self._inner(width)
        return (inner, 1, first), (inner, 3, second), (width * EXPANSION, 1, 1)

    def gate(self, features: int) -> int:
        """Hidden channels of the gate of a branch; 0: none."""
        return max(8, (features // 16 + 4) // 8 * 8) if self.squeeze else 0

    def _inner(self, width: int) -> int:
        return self.groups * (width * self.base_width // BASE)


class ResNet(Family):
    """The chain stem, block_0 ... block_{n-1} (counted over all stages), head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        units = {"stem": functools.partial(Stem, options.width, options.stem, self.axis_name)}
        rates = iter(linear_rates(options.stochastic_depth, sum(options.stage_sizes)))
        for stage, blocks in enumerate(options.stage_sizes):
            for i in range(blocks):
                convs = options.convs(options.stage_widths[stage], 2 if stage > 0 and i == 0 else 1)
                inner = (options.groups, options.gate(convs[-1][0]))
                units[f"block_{len(units) - 1}"] = functools.partial(
                    Block, convs, options.shortcut, next(rates), self.axis_name, *inner
                )
        head = functools.partial(DenseHead, size=self.dense()) if self.dense() else Head
        return {**units, "head": functools.partial(head, self.outputs)}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A ResNet with a head that is `pooled`, `dense` (outputs at every pixel) or `embedding` (the features)."""
    return family_port(
        ResNet,
        options,
        outputs=outputs,
        head=head,
        input_axes=(
            (r".*/conv(_\d)?/kernel", 3),
            *(((r".*/gate/.*/kernel", 1),) if options.squeeze else ()),
            (r"head/out/kernel", 1),
        ),
        tensor_axes=((r".*/conv(_\d)?/kernel", 3), (".*", None)),
    )


TINY = {
    "basic": dict(stage_sizes=(1, 2), width=6, stem="cifar", shortcut="padding", image=(9, 7, 3)),
    "bottleneck": dict(stage_sizes=(1, 1), width=4, block="bottleneck", image=(18, 14, 3)),
    "neck": dict(stage_sizes=(1,), width=4, stem="cifar", image=(9, 7, 3), neck=5, neck_hidden=4, neck_dropout=0.1),
    "grouped": dict(
        stage_sizes=(1, 1),
        width=8,
        widths=(4, 6),
        base_width=24,
        groups=2,
        squeeze=True,
        block="bottleneck",
        stem="tiered",
        shortcut="average",
        image=(18, 13, 3),
    ),
}
