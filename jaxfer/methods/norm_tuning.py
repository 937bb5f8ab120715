"""Norm tuning: scales and biases of all norms are trained, and the head; the rest of the backbone stays frozen.

Layer norms: Qi et al., 2022, "Parameter-Efficient Tuning on Layer Normalization for Pre-trained Language Models",
arXiv:2211.08682. Batch norms: Frankle et al., 2020, "Training BatchNorm and Only BatchNorm", arXiv:2003.00152; such a
norm follows the statistics of the batches. Of y = scale * (x - mean) / sqrt(variance + epsilon) + bias both learn scale
and bias. RMS, group and global response norms likewise.
"""

from __future__ import annotations

import re

from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method
from jaxfer.methods import _kernels
from jaxfer.models.convnext import ResponseNorm
from jaxfer.models.execution import NORMS
from jaxfer.models.port import Port


def method(port: Port) -> Method:
    """Groups: `norm`, `head`."""
    norms = [path for path, module in _kernels.modules(port).items() if isinstance(module, (*NORMS, ResponseNorm))]

    def init(params, key, given):
        if not norms:
            raise InputError("norm_tuning: the model has no norms; use bitfit or lora")
        return params, {}

    ours = f"({'|'.join(map(re.escape, norms))})/.*"
    return Method(
        rules=((f"{port.head}/.*", "head"), (ours, "norm"), (".*", FROZEN)),
        init=init,
        hparams={"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3))},
    )
