"""The published EfficientNets, and what they have in common under the names of every library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.models.efficientnet import Options
from jaxfer.models.inverted import divisible
from jaxfer.pretrained.families import _inverted

BASE = Options()
# The published networks differ by these: (width and depth multiplier, image, dropout).
SCALES = {
    "b0": (1.0, 1.0, 224, 0.2),
    "b1": (1.0, 1.1, 240, 0.2),
    "b2": (1.1, 1.2, 260, 0.3),
    "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4),
    "b5": (1.6, 2.2, 456, 0.4),
    "b6": (1.8, 2.6, 528, 0.5),
    "b7": (2.0, 3.1, 600, 0.5),
    "b8": (2.2, 3.6, 672, 0.5),
    "l2": (4.3, 5.3, 800, 0.5),
}
V2 = {(2, 4, 4, 6, 9, 15): (384, 0.2), (3, 5, 5, 7, 14, 18, 5): (480, 0.3), (4, 7, 7, 10, 19, 25, 7): (480, 0.4)}
ACTIVATIONS = {"swish": "silu", "silu": "silu", "relu6": "relu6"}


def strides(blocks: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Of the stages, which shapes do not tell: V1 of 7 stages and V2 of 6 or 7 have the same."""
    return BASE.strides[: len(list(_inverted.stages(blocks)))]


def published(widths: Sequence[int], repeats: Sequence[int]) -> tuple[int, float, float]:
    """(image, dropout, torchvision's epsilon) of the published network of these widths and repeats, else B0's."""
    if found := V2.get(tuple(repeats)):
        return (*found, 1e-3)
    for name, (width, depth, image, dropout) in SCALES.items():
        if tuple(divisible(x * width) for x in BASE.widths) != tuple(widths):
            continue
        deep = tuple(math.ceil(many * depth) for many in BASE.repeats)
        if deep[1:-1] == tuple(repeats[1:-1]):
            return image, dropout, 1e-3 if name >= "b5" else 1e-5
    return 224, 0.2, 1e-5
