"""MobileNetV1: depthwise separable convolutions (Howard et al., 2017, arXiv:1704.04861), as transformers has it.

`depth_multiplier` (the paper's width multiplier) thins every layer: 1.0, 0.75, 0.5 and 0.25 are published, at images of
224, 192, 160 and 128 pixels. The network runs at any size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax

from jaxfer.models.chain import check_positive
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import DENSE, POOLED
from jaxfer.models.layers import BatchNorm, Conv, DenseHead, Depthwise, PooledHead, relu6, steps
from jaxfer.models.options import ImageOptions, option, positive, rate, size, sizes
from jaxfer.models.port import Port

HEADS = (POOLED, DENSE)
WIDEST = 1000  # times the published width: beyond it no layer would fit in memory
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # of each block's depthwise convolution


class Stem(nn.Module):
    """3x3 convolution of stride 2, norm, ReLU6: [batch, h, w, c] -> [batch, h/2, w/2, features]."""

    features: int
    padding: int | str
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.features, (3, 3), 2, self.padding, name="conv")(x)
        return relu6(self.norm(name="norm")(x, use_running_average=not train))


class Block(nn.Module):
    """A 3x3 window a channel, then a 1x1 convolution across them, each with norm and ReLU6; the window may stride."""

    features: int
    stride: int
    dilation: int
    padding: int | str
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Depthwise((3, 3), self.stride, self.padding, self.dilation, name="depthwise")(x)
        x = relu6(self.norm(name="norm_1")(x, use_running_average=not train))
        x = Conv(self.features, (1, 1), name="pointwise")(x)
        return relu6(self.norm(name="norm_2")(x, use_running_average=not train))


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """
    Attributes:
      depth_multiplier: thins every layer: int(channels * depth_multiplier), at least `min_depth`.
      min_depth: the fewest channels of a layer.
      strides: of each block's depthwise convolution; channels double where a block strides, and in the first. Others
        than the published ones are for small images.
      output_stride: the last feature map is at most so many times smaller than the image: later blocks see as far by
        dilated windows, with the same weights (arXiv:1706.05587). 0 for no limit: 32 with the published strides.
      tf_padding: TensorFlow's `same` padding, which depends on the size and may differ by side, as all published
        checkpoints have it; False: one zero on each side.
      dropout: rate before the output layer.
      epsilon: of every BatchNorm.
      norm_momentum: weight of a new batch in the running statistics. transformers hard-codes 0.9997 here, which was
        TensorFlow's weight of the old ones: its statistics are those of the last batch.
    """

    depth_multiplier: float = positive(1.0, most=WIDEST)
    min_depth: int = size(8)
    strides: tuple[int, ...] = sizes(STRIDES, of="stride")
    output_stride: int = option(0, lambda name, value: value == 0 or check_positive(**{name: value}))
    tf_padding: bool = option(True)
    dropout: float = rate(0.0)
    epsilon: float = positive(1e-3)
    norm_momentum: float = positive(0.1, most=1, training=True)
    mean: tuple[float, ...] = option((0.5,), inputs=True)
    std: tuple[float, ...] = option((0.5,), inputs=True)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after the stem and after each block; they double where a block strides, and in the first."""
        depths = [32]
        for i, stride in enumerate(self.strides):
            depths.append(depths[-1] * 2 if stride > 1 or i == 0 else depths[-1])
        return tuple(max(int(depth * self.depth_multiplier), self.min_depth) for depth in depths)

    @property
    def steps(self) -> list[tuple[int, int]]:
        """(stride, dilation) of each block; a stride beyond `output_stride` dilates the later blocks instead."""
        return steps(self.strides, self.output_stride)


class MobileNetV1(Family):
    """The chain stem, block_0 ... block_{n-1} (n is 13), head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        norm = functools.partial(BatchNorm, options.norm_momentum, options.epsilon, self.axis_name)
        padding = "same" if options.tf_padding else 1
        first, *widths = options.widths
        blocks = {
            f"block_{i}": functools.partial(Block, width, *steps, padding, norm)
            for i, (width, steps) in enumerate(zip(widths, options.steps, strict=True))
        }
        stem = functools.partial(Stem, first, padding, norm)
        head = functools.partial(DenseHead, size=self.dense()) if self.dense() else PooledHead
        return {"stem": stem, **blocks, "head": functools.partial(head, self.outputs, dropout=options.dropout)}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A MobileNetV1 with a head that is `pooled`, or `dense` for outputs at every pixel of the input.

    LoRA adapts the pointwise kernels. A depthwise convolution multiplies no channels, so there is no product whose rank
    could be low; its leaf is called `window`, not `kernel`, and adapters pass it by.
    """
    return family_port(
        MobileNetV1,
        options,
        outputs=outputs,
        head=head,
        input_axes=((r".*/(conv|pointwise)/kernel", 3), (r"head/out/kernel", 1)),
        tensor_axes=((r".*/(conv/kernel|pointwise/kernel|window)", 3), (".*", None)),
    )


TINY = {"": dict(depth_multiplier=0.1, min_depth=5, strides=(1, 2, 1), image=(11, 14, 3))}
