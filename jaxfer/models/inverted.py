"""Inverted residuals: narrow between blocks, wide inside, where a window a channel looks around (arXiv:1801.04381).

MobileNetV2 and its kin are chains of these blocks; what tells them apart is in their options. Some blocks are `fused`:
one window of all channels in place of the first two layers (arXiv:2104.00298, figure 2); some are a `conv` alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax

from jaxfer.errors import InputError
from jaxfer.models.chain import check_positive
from jaxfer.models.convolutions import SqueezeExcite
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import (
    ACTIVATIONS,
    BatchNorm,
    Conv,
    DenseHead,
    Depthwise,
    Padding,
    PooledHead,
    steps,
)
from jaxfer.models.options import ImageOptions, choice, option, positive, rate, size, sizes
from jaxfer.models.port import Port

HEADS = (POOLED, DENSE, EMBEDDING)
PADDINGS = ("same", "symmetric", "end")
KINDS = ("inverted", "fused", "conv")
Norm = Callable[..., BatchNorm]


@dataclass(frozen=True)
class Shape:
    """What a block computes.

    Attributes:
      inputs: channels that it reads.
      expanded: channels inside.
      features: channels that it gives.
      window: height and width of the window.
      stride: of the window.
      dilation: of the window.
      padding: of the window.
      expands: whether a 1x1 convolution makes the channels inside, even where they are as many as the inputs.
      act: name of the activation.
      kind: `inverted`; `fused`, whose window makes the channels inside; `conv`, a window that gives `features`.
      squeeze: hidden channels of the gate of the channels inside (arXiv:1709.01507); 0: none.
    """

    inputs: int
    expanded: int
    features: int
    window: int
    stride: int
    dilation: int
    padding: Padding
    expands: bool
    act: str
    kind: str = "inverted"
    squeeze: int = 0

    @property
    def skips(self) -> bool:
        """Whether the input is added to what the block gives."""
        return self.stride == 1 and self.inputs == self.features

    @property
    def parts(self) -> Iterator[str]:
        """Names of the block's modules, norms aside, in order: each norm is called `norm_` and the same."""
        if self.kind == "conv":
            yield "conv"
            return
        yield from ("expand",) if self.expands or self.kind == "fused" else ()
        yield from ("depthwise",) if self.kind == "inverted" else ()
        yield "project"


class ConvNorm(nn.Module):
    """Convolution, norm and activation: [batch, h, w, c] -> [batch, h', w', features]."""

    features: int
    window: int
    stride: int
    padding: Padding
    act: str
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.features, (self.window, self.window), self.stride, self.padding, name="conv")(x)
        return ACTIVATIONS[self.act](self.norm(name="norm")(x, use_running_average=not train))


class Block(nn.Module):
    """Expands by 1x1, looks around by a window a channel, and projects by 1x1 without an activation.

    Attributes:
      shape: what it computes.
      gate: names of the activations inside the gate and of its output.
      norm: makes a norm.
      drop_rate: probability that a sample skips the branch in training, where there is a skip.
    """

    shape: Shape
    gate: tuple[str, str]
    norm: Norm
    drop_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape, act, y = self.shape, ACTIVATIONS[self.shape.act], x
        around = ((shape.window, shape.window), shape.stride, shape.padding)
        for part in shape.parts:
            features = shape.expanded if part == "expand" else shape.features
            if part == "project" and shape.squeeze:
                y = SqueezeExcite(shape.squeeze, *self.gate, name="gate")(y)
            if part == "depthwise":
                y = Depthwise(*around, shape.dilation, name=part)(y)
            elif part == "conv" or part == "expand" and shape.kind == "fused":
                y = Conv(features, *around, name=part)(y)
            else:
                y = Conv(features, (1, 1), name=part)(y)
            y = self.norm(name=f"norm_{part}")(y, use_running_average=not train)
            y = y if part == "project" else act(y)
        if not shape.skips:
            return y
        return x + nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), name="drop")(y, deterministic=not train)


@dataclass(frozen=True, kw_only=True)
class InvertedOptions(ImageOptions):
    """Options of such a family. A stage is a row of blocks of one width, of which the first may stride.

    Attributes:
      stem: channels of the first convolution, 3x3 of stride 2.
      widths: channels that the blocks of each stage give.
      repeats: blocks of each stage.
      strides: of the first block of each stage.
      top: channels of the last 1x1 convolution.
      output_stride: the last feature map is at most so many times smaller than the image: later blocks see as far by
        dilated windows, with the same weights (arXiv:1706.05587). 0 for no limit.
      padding: of what strides: `same`, TensorFlow's, which depends on the size; `symmetric`, PyTorch's; `end`, which
        is TensorFlow's for even sizes and taken for all. Windows that don't stride keep the size in each of them.
      dropout: rate before the output layer.
      stochastic_depth: drop rate of residual branches, linear in depth (arXiv:1603.09382), 0 in the first block and
        this after the last.
      epsilon: of every BatchNorm.
      norm_momentum: weight of a new batch in the running statistics.
    """

    stem: int = size(32)
    widths: tuple[int, ...] = sizes((16, 24, 32, 64, 96, 160, 320), of="stage")
    repeats: tuple[int, ...] = sizes((1, 2, 3, 4, 3, 3, 1), of="stage")
    strides: tuple[int, ...] = sizes((1, 2, 2, 2, 1, 2, 1), of="stage")
    top: int = size(1280)
    output_stride: int = option(0, lambda name, value: value == 0 or check_positive(**{name: value}))
    padding: str = choice("same", PADDINGS)
    dropout: float = rate(0.2)
    stochastic_depth: float = rate(0.0)
    epsilon: float = positive(1e-3)
    norm_momentum: float = positive(0.1, most=1, training=True)

    @property
    def act(self) -> str:
        """Name of the activation in `layers.ACTIVATIONS`, in `stem` and `top`, and where blocks don't say another."""
        raise NotImplementedError

    @property
    def gate(self) -> tuple[str, str]:
        """Names of the activations inside the blocks' gates and of their output."""
        return ("relu", "sigmoid")

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What each block computes."""
        raise NotImplementedError

    def check(self) -> None:
        super().check()
        self.for_each_stage("repeats", "strides")
        if self.output_stride and any(shape.dilation > 1 and shape.kind != "inverted" for shape in self.shapes):
            raise InputError(
                f"output_stride={self.output_stride} would dilate blocks that are fused; only windows a channel can be"
            )

    def for_each_stage(self, *names: str) -> None:
        """`InputError` unless these options have a value for each stage."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != len(self.widths):
                raise InputError(f"{name} must have a value for each of the {len(self.widths)} widths, found {value!r}")

    def places(self) -> Iterator[tuple[int, int, int, int]]:
        """(stage, index in it, stride, dilation) of each block."""
        where = [(stage, i) for stage, count in enumerate(self.repeats) for i in range(count)]
        moves = steps([1 if i else self.strides[stage] for stage, i in where], self.output_stride)
        yield from ((*place, *move) for place, move in zip(where, moves, strict=True))

    def made(self, **varying: Sequence[Any]) -> tuple[Shape, ...]:
        """The blocks; `varying` fields of `Shape` have a value for each block, `expanded` and `expands` among them."""
        found, inputs = [], self.stem
        for block, (stage, _, stride, dilation) in enumerate(self.places()):
            given = {name: values[block] for name, values in varying.items()}
            window = given.pop("window", 3)
            fields = {"padding": self.padded(window, stride), "act": self.act, **given}
            found.append(
                Shape(inputs, features=self.widths[stage], window=window, stride=stride, dilation=dilation, **fields)
            )
            inputs = self.widths[stage]
        return tuple(found)

    def inputs(self) -> Iterator[int]:
        """Channels that each block reads."""
        for stage, i, *_ in self.places():
            yield self.widths[stage if i else stage - 1] if i or stage else self.stem

    def padded(self, window: int, stride: int) -> Padding:
        """Of a window of this size and stride."""
        if self.padding == "end" and stride > 1:
            return (window // 2 - 1, window // 2)
        return "same" if self.padding == "same" else window // 2


@dataclass(frozen=True, kw_only=True)
class RatioOptions(InvertedOptions):
    """The same where the channels inside a block are a multiple of those that it reads.

    Attributes:
      expansions: that multiple, of each stage; 1 leaves the first 1x1 of an inverted block out.
    """

    expansions: tuple[float, ...] = option((1.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0))

    def check(self) -> None:
        self.for_each_stage("expansions")
        if not all(isinstance(x, int | float) and not isinstance(x, bool) and x > 0 for x in self.expansions):
            raise InputError(f"expansions must be positive numbers, found {self.expansions!r}; give e.g. 6.0")
        super().check()

    def made(self, **varying: Sequence[Any]) -> tuple[Shape, ...]:
        ratios = [self.expansions[stage] for stage, *_ in self.places()]
        inside = [round(inputs * ratio) for inputs, ratio in zip(self.inputs(), ratios, strict=True)]
        expands = [ratio != 1 for ratio in ratios]
        return super().made(**{"expanded": inside, "expands": expands, **varying})


class Inverted(Family):
    """The chain stem, block_0 ... block_{n-1}, top, head; `top` is the last 1x1 convolution with its norm."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        norm = functools.partial(BatchNorm, options.norm_momentum, options.epsilon, self.axis_name)
        shapes = options.shapes
        blocks = {
            f"block_{i}": functools.partial(
                Block, shape, options.gate, norm, options.stochastic_depth * i / len(shapes)
            )
            for i, shape in enumerate(shapes)
        }
        head = functools.partial(DenseHead, size=self.dense()) if self.dense() else PooledHead
        return {
            "stem": functools.partial(ConvNorm, options.stem, 3, 2, options.padded(3, 2), options.act, norm),
            **blocks,
            "top": functools.partial(ConvNorm, options.top, 1, 1, 0, options.act, norm),
            "head": functools.partial(head, self.outputs, dropout=options.dropout),
        }


def inverted_port(
    options: InvertedOptions, *, outputs: int, head: str = POOLED, kind: type[Inverted] = Inverted
) -> Port:
    """A network of such blocks, with a head that is `pooled`, `embedding`, or `dense` for outputs at every pixel.

    LoRA adapts the convolutions across channels; windows multiply no channels, see `MobileNetV1`.
    """
    gated = any(shape.squeeze for shape in options.shapes)
    return family_port(
        kind,
        options,
        outputs=outputs,
        head=head,
        input_axes=(
            *(((r".*/gate/.*/kernel", 1),) if gated else ()),
            (r".*/(conv|expand|project)/kernel", 3),
            (r"head/(hidden|out)/kernel", 1),
        ),
        tensor_axes=(
            *(((r".*/gate/.*", None),) if gated else ()),
            (r".*/((conv|expand|project)/kernel|window)", 3),
            (".*", None),
        ),
    )


def divisible(channels: float, divisor: int = 8, least: int | None = None) -> int:
    """Channels rounded to a multiple of the divisor, at least `least` and never by more than a tenth downwards."""
    rounded = max(least or divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
