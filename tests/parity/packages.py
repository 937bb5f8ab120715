"""torchvision and timm beside a torch without CUDA. torchvision's wheel is for one with it: its operators can't load,
and its import stops. Models need none of them; declaring the two that the import asks for is enough.

They are not in the environment of the other tests: transformers would take torchvision's operators for its processors.
`make parity` puts them in a folder of their own, for a run of its own.
"""

from __future__ import annotations

import torch

_DECLARED = torch.library.Library("torchvision", "FRAGMENT")  # kept: a library that is collected takes them back
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        _DECLARED.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402

__all__ = ["timm", "torchvision"]
