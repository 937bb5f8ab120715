"""MobileNetV2: inverted residuals with linear bottlenecks (Sandler et al., 2018, arXiv:1801.04381).

| width multiplier | stem | widths                          | top  |
|------------------|------|---------------------------------|------|
| 1.0              | 32   | (16, 24, 32, 64, 96, 160, 320)  | 1280 |
| 1.4              | 48   | (24, 32, 48, 88, 136, 224, 448) | 1792 |
| 1.3              | 40   | (24, 32, 40, 80, 128, 208, 416) | 1664 |
| 0.75             | 24   | (16, 24, 24, 48, 72, 120, 240)  | 1280 |
| 0.5              | 16   | (8, 16, 16, 32, 48, 80, 160)    | 1280 |
| 0.35             | 16   | (8, 8, 16, 24, 32, 56, 112)     | 1280 |

The network runs at any size; 96 to 224 pixels are published.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxfer.models.heads import POOLED
from jaxfer.models.inverted import HEADS, RatioOptions, Shape, inverted_port
from jaxfer.models.options import option
from jaxfer.models.port import Port

__all__ = ["HEADS", "Options", "TINY", "port"]


@dataclass(frozen=True, kw_only=True)
class Options(RatioOptions):
    """`jaxfer.models.inverted` describes the others; `top` is not thinned by multipliers below 1.

    Attributes:
      first_expands: whether the first block too has a 1x1 convolution before its window, though it does not widen.
    """

    first_expands: bool = option(False)
    mean: tuple[float, ...] = option((0.5,), inputs=True)
    std: tuple[float, ...] = option((0.5,), inputs=True)

    @property
    def act(self) -> str:
        return "relu6"

    @property
    def shapes(self) -> tuple[Shape, ...]:
        stages = [stage for stage, *_ in self.places()]
        expands = [self.expansions[stage] != 1 or self.first_expands and i == 0 for i, stage in enumerate(stages)]
        return self.made(expands=expands)


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A MobileNetV2, see `inverted_port`."""
    return inverted_port(options, outputs=outputs, head=head)


TINY = {
    "": dict(stem=4, widths=(3, 5), repeats=(1, 2), strides=(1, 2), expansions=(1.0, 2.0), top=7, image=(11, 14, 3))
}
