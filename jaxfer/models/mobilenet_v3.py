"""MobileNetV3 (Howard et al., 2019, arXiv:1905.02244): Large, Small and the minimal ones without gates.

| network     | widths                       | repeats            | strides            | top | hidden |
|-------------|------------------------------|--------------------|--------------------|-----|--------|
| Large       | (16, 24, 40, 80, 112, 160)   | (1, 2, 3, 4, 2, 3) | (1, 2, 2, 2, 1, 2) | 960 | 1280   |
| Small       | (16, 24, 40, 48, 96)         | (1, 2, 3, 2, 3)    | (2, 2, 2, 1, 2)    | 576 | 1024   |

Small has `windows=(3, 3, 5, 5, 5)`, `gated=(True, False, True, True, True)`, two stages of ReLU before the hard swish,
and `expanded=(16, 72, 88, 96, 240, 240, 120, 144, 288, 576, 576)`. The networks run at any size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax

from jaxfer.errors import InputError
from jaxfer.models.chain import check_choice
from jaxfer.models.heads import POOLED
from jaxfer.models.inverted import HEADS, Inverted, InvertedOptions, Shape, divisible, inverted_port
from jaxfer.models.layers import ACTIVATIONS, Dense
from jaxfer.models.options import choice, option, rate, size, sizes
from jaxfer.models.port import Port

__all__ = ["HEADS", "Options", "TINY", "port"]

ACTS = ("relu", "hard_swish")


def _acts(name: str, value: Any) -> None:
    if not isinstance(value, tuple):
        raise InputError(f"{name} must be a tuple of {', '.join(ACTS)}, found {value!r}")
    for i, act in enumerate(value):
        check_choice(f"{name}[{i}]", act, ACTS)


def _flags(name: str, value: Any) -> None:
    if not isinstance(value, tuple) or not all(isinstance(x, bool) for x in value):
        raise InputError(f"{name} must be a tuple of True and False, found {value!r}")


@dataclass(frozen=True, kw_only=True)
class Options(InvertedOptions):
    """`jaxfer.models.inverted` describes the others; the defaults are those of Large.

    Attributes:
      expanded: channels inside each block; as many as it reads leave its first 1x1 out.
      windows: of each stage.
      gated: whether the blocks of each stage have gates (arXiv:1709.01507) of a quarter of the channels inside.
      acts: activation of each stage.
      activation: of the stem, the top and the hidden layer.
      hidden: channels of the dense layer between the pooled top and the output layer.
    """

    stem: int = size(16)
    widths: tuple[int, ...] = sizes((16, 24, 40, 80, 112, 160), of="stage")
    repeats: tuple[int, ...] = sizes((1, 2, 3, 4, 2, 3), of="stage")
    strides: tuple[int, ...] = sizes((1, 2, 2, 2, 1, 2), of="stage")
    expanded: tuple[int, ...] = sizes(
        (16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960), of="block"
    )
    windows: tuple[int, ...] = sizes((3, 3, 5, 3, 3, 5), of="stage")
    gated: tuple[bool, ...] = option((False, False, True, False, True, True), _flags)
    acts: tuple[str, ...] = option(("relu",) * 3 + ("hard_swish",) * 3, _acts)
    activation: str = choice("hard_swish", ACTS)
    top: int = size(960)
    hidden: int = size(1280)
    stochastic_depth: float = rate(0.0)

    @property
    def act(self) -> str:
        return self.activation

    @property
    def gate(self) -> tuple[str, str]:
        return ("relu", "hard_sigmoid")

    @property
    def shapes(self) -> tuple[Shape, ...]:
        stages = [stage for stage, *_ in self.places()]
        return self.made(
            expanded=self.expanded,
            expands=[inside != inputs for inside, inputs in zip(self.expanded, self.inputs(), strict=True)],
            window=[self.windows[stage] for stage in stages],
            act=[self.acts[stage] for stage in stages],
            squeeze=[
                divisible(inside // 4) if self.gated[stage] else 0
                for inside, stage in zip(self.expanded, stages, strict=True)
            ],
        )

    def check(self) -> None:
        self.for_each_stage("repeats", "windows", "gated", "acts")
        if len(self.expanded) != sum(self.repeats):
            raise InputError(
                f"expanded must have a value for each of the {sum(self.repeats)} blocks, found {self.expanded!r}"
            )
        if even := [window for window in self.windows if not window % 2]:
            raise InputError(f"windows must be odd, found {even[0]} in {self.windows!r}")
        super().check()


class Head(nn.Module):
    """Mean over both axes, a dense layer, activation, dropout, output layer: [batch, h, w, c] -> [batch, outputs].

    What the output layer reads for 0 outputs. With a `size` there is no mean: [batch, *size, outputs], enlarged as
    `DenseHead` does.
    """

    outputs: int
    hidden: int
    act: str
    dropout: float
    size: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x if self.size else x.mean((1, 2))
        x = ACTIVATIONS[self.act](Dense((self.hidden,), name="hidden")(x))
        if not self.outputs:
            return x
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        x = Dense((self.outputs,), name="out")(x)
        return jax.image.resize(x, (len(x), *self.size, self.outputs), "bilinear") if self.size else x


class MobileNetV3(Inverted):
    """The chain stem, block_0 ... block_{n-1}, top, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        head = functools.partial(Head, self.outputs, options.hidden, options.act, options.dropout, size=self.dense())
        return {**super().units(), "head": head}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A MobileNetV3, see `inverted_port`."""
    return inverted_port(options, outputs=outputs, head=head, kind=MobileNetV3)


TINY = {
    "": dict(
        stem=4,
        widths=(4, 5),
        repeats=(1, 2),
        strides=(1, 2),
        expanded=(4, 7, 9),
        windows=(3, 5),
        gated=(False, True),
        acts=("relu", "hard_swish"),
        top=7,
        hidden=6,
        image=(11, 14, 3),
    )
}
