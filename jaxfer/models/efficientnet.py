"""EfficientNet (Tan and Le, 2019, arXiv:1905.11946), its Lite networks, and EfficientNetV2 (2021, arXiv:2104.00298).

| network | stem | widths                               | repeats                 | top  | image |
|---------|------|--------------------------------------|-------------------------|------|-------|
| B0      | 32   | (16, 24, 40, 80, 112, 192, 320)      | (1, 2, 2, 3, 3, 4, 1)   | 1280 | 224   |
| B1      | 32   | (16, 24, 40, 80, 112, 192, 320)      | (2, 3, 3, 4, 4, 5, 2)   | 1280 | 240   |
| B2      | 32   | (16, 24, 48, 88, 120, 208, 352)      | (2, 3, 3, 4, 4, 5, 2)   | 1408 | 260   |
| B3      | 40   | (24, 32, 48, 96, 136, 232, 384)      | (2, 3, 3, 5, 5, 6, 2)   | 1536 | 300   |
| B4      | 48   | (24, 32, 56, 112, 160, 272, 448)     | (2, 4, 4, 6, 6, 8, 2)   | 1792 | 380   |
| B5      | 48   | (24, 40, 64, 128, 176, 304, 512)     | (3, 5, 5, 7, 7, 9, 3)   | 2048 | 456   |
| B6      | 56   | (32, 40, 72, 144, 200, 344, 576)     | (3, 6, 6, 8, 8, 11, 3)  | 2304 | 528   |
| B7      | 64   | (32, 48, 80, 160, 224, 384, 640)     | (4, 7, 7, 10, 10, 13, 4) | 2560 | 600  |
| V2-S    | 24   | (24, 48, 64, 128, 160, 256)          | (2, 4, 4, 6, 9, 15)     | 1280 | 384   |
| V2-M    | 24   | (24, 48, 80, 160, 176, 304, 512)     | (3, 5, 5, 7, 14, 18, 5) | 1280 | 480   |
| V2-L    | 32   | (32, 64, 96, 192, 224, 384, 640)     | (4, 7, 7, 10, 19, 25, 7) | 1280 | 480  |

Lite 0 to 4 are B0 to B4 without gates, with ReLU6, B0's stem and top, and one block in the first and the last stage.
V2 has `kinds=("conv", "fused", "fused", "inverted", ...)`, windows of 3 and `expansions=(1, 4, 4, 4, 6, 6, 6)`. The
networks run at any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxfer.errors import InputError
from jaxfer.models.chain import check_choice
from jaxfer.models.heads import POOLED
from jaxfer.models.inverted import HEADS, KINDS, RatioOptions, Shape, inverted_port
from jaxfer.models.options import choice, option, rate, sizes
from jaxfer.models.port import Port

__all__ = ["HEADS", "Options", "TINY", "port"]


def _kinds(name: str, value: Any) -> None:
    if not isinstance(value, tuple):
        raise InputError(f"{name} must be a tuple of {', '.join(KINDS)}, found {value!r}")
    for i, kind in enumerate(value):
        check_choice(f"{name}[{i}]", kind, KINDS)


def _share(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number from 0 to 1, found {value!r}; give e.g. 0.25")


def _blocks(name: str, value: Any) -> None:
    whole = isinstance(value, tuple) and all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in value)
    if not whole:
        raise InputError(f"{name} must be a tuple of numbers of blocks, found {value!r}; give e.g. (5, 16)")


@dataclass(frozen=True, kw_only=True)
class Options(RatioOptions):
    """`jaxfer.models.inverted` describes the others.

    Attributes:
      kinds: of the blocks of each stage: `inverted`, `fused` or `conv`.
      windows: of each stage.
      squeeze: hidden channels of the gates of inverted blocks for each channel that a block reads; 0: no gates.
      activation: of all layers, those inside the gates too.
      symmetric_blocks: numbers of the blocks that pad `symmetric` where `padding` is `end`: those that TensorFlow would
        pad so at the size that a checkpoint was trained for.
    """

    widths: tuple[int, ...] = sizes((16, 24, 40, 80, 112, 192, 320), of="stage")
    repeats: tuple[int, ...] = sizes((1, 2, 2, 3, 3, 4, 1), of="stage")
    kinds: tuple[str, ...] = option(("inverted",) * 7, _kinds)
    windows: tuple[int, ...] = sizes((3, 3, 5, 3, 5, 5, 3), of="stage")
    squeeze: float = option(0.25, _share)
    activation: str = choice("silu", ("silu", "relu6"))
    symmetric_blocks: tuple[int, ...] = option((), _blocks)
    stochastic_depth: float = rate(0.2)
    interpolation: str = option("bicubic", inputs=True)

    @property
    def act(self) -> str:
        return self.activation

    @property
    def gate(self) -> tuple[str, str]:
        return (self.activation, "sigmoid")

    @property
    def shapes(self) -> tuple[Shape, ...]:
        stages = [stage for stage, *_ in self.places()]
        gated = [self.squeeze if self.kinds[stage] == "inverted" else 0 for stage in stages]
        return self.made(
            kind=[self.kinds[stage] for stage in stages],
            window=[self.windows[stage] for stage in stages],
            squeeze=[
                max(1, int(inputs * share)) if share else 0 for inputs, share in zip(self.inputs(), gated, strict=True)
            ],
            padding=[
                self.padded(self.windows[stage], stride, block in self.symmetric_blocks)
                for block, (stage, _, stride, _) in enumerate(self.places())
            ],
        )

    def padded(self, window: int, stride: int, symmetric: bool = False) -> Any:
        return window // 2 if symmetric and self.padding == "end" else super().padded(window, stride)

    def check(self) -> None:
        self.for_each_stage("kinds", "windows")
        if even := [window for window in self.windows if not window % 2]:
            raise InputError(f"windows must be odd, found {even[0]} in {self.windows!r}")
        wide = [i for i, kind in enumerate(self.kinds) if kind == "conv" and self.expansions[i : i + 1] != (1,)]
        if wide:
            raise InputError(
                f"kinds[{wide[0]}]='conv' expands nothing: expected 1.0 in expansions, found {self.expansions!r}"
            )
        super().check()


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """An EfficientNet, see `inverted_port`."""
    return inverted_port(options, outputs=outputs, head=head)


TINY = {
    "": dict(
        stem=4,
        widths=(3, 5),
        repeats=(1, 2),
        strides=(1, 2),
        expansions=(1.0, 2.0),
        kinds=("inverted",) * 2,
        windows=(3, 5),
        top=7,
        image=(11, 14, 3),
    ),
    "v2": dict(
        stem=4,
        widths=(4, 6, 5),
        repeats=(1, 1, 1),
        strides=(1, 2, 1),
        expansions=(1.0, 2.0, 2.0),
        kinds=("conv", "fused", "inverted"),
        windows=(3, 3, 3),
        top=7,
        image=(11, 14, 3),
    ),
}
