"""BitFit: all biases are trained, those of norms too, and the head; the rest of the backbone stays frozen.

Ben Zaken et al., 2021, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
arXiv:2106.10199, section 3. A batch norm that learns its bias follows the statistics of the batches, as in full
fine-tuning; the paper has none.
"""

from __future__ import annotations

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method
from jaxfer.models.port import Port


def method(port: Port) -> Method:
    """Groups: `bias`, `head`."""

    def init(params, key, given):
        paths = (path for path in rules.flatten(params) if not path.startswith(f"{port.head}/"))
        if not any(path.endswith("/bias") for path in paths):
            raise InputError("bitfit: the model has no biases before its output layer; use norm_tuning or lora")
        return params, {}

    return Method(
        rules=((f"{port.head}/.*", "head"), (".*/bias", "bias"), (".*", FROZEN)),
        init=init,
        hparams={"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3))},
    )
