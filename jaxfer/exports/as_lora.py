"""Any method's run as a LoRA adapter: the largest singular vectors of what training did to each layer's weights.

By Eckart and Young no product of this rank is nearer to the change of a layer. So methods whose models merge (LoHa,
DoRA, OFT, LoRA from PiSSA's start, whole fine-tuning of kernels) can be used by servers that know LoRA alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.exports import peft
from jaxfer.exports.tensors import write as write_tensors
from jaxfer.models.port import Port
from jaxfer.pretrained.adapter import PREFIX, in_memory, transposed
from jaxfer.pretrained.hub import ADAPTER_CONFIG, ADAPTERS
from jaxfer.pretrained.layout import CONV, Layout, store
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import FinishedRun


def write(finished: FinishedRun, layout: Layout, folder: epath.Path, *, rank: int) -> dict[str, float]:
    """Writes adapter_config.json and adapter_model.safetensors.

    Args:
      finished: a run whose model merges and started from a checkpoint of transformers.
      layout: of its model.
      folder: an empty one.
      rank: of each layer's adapter; scales are 1.

    Returns:
      {layer: |change - adapter| / |change|, Frobenius norms}, of layers that training changed.

    Raises:
      InputError: the model does not merge, training changed what is no layer's weights, or as of `peft.source`.
    """
    port, checkpoint = finished.stage.spec.port, peft.source(finished, layout)
    params, model_state = finished.stage.leave(finished.state)
    saved, base, changed = peft.compared(checkpoint, layout, finished, {"params": params, **model_state})
    keys, leaves = layout.keys(port), flatten({"params": params, **model_state})
    after, before = (_stored(tree, layout, port) for tree in (leaves, {**leaves, **base}))

    def adaptable(leaf: str) -> bool:
        """What peft adapts: products, and windows over an image that are taken as they are."""
        window = keys[leaf].transform is CONV and not layout.standardised
        return leaf.endswith("/kernel") and (after[keys[leaf].name].ndim == 2 or window)

    peft.refuse({leaf for leaf in changed if not adaptable(leaf)})
    tensors, errors, turned = {}, {}, set()
    for name in sorted({keys[leaf].name for leaf in changed}):
        module = in_memory(layout, name.removesuffix(".weight"))
        change = after[name].astype(np.float64) - before[name]
        if transposed(layout, module):
            change, _ = change.T, turned.add(module)
        a, b = factors(change, rank)
        left = change - np.tensordot(b.reshape(len(b), rank), a, 1)
        errors[module] = float(np.linalg.norm(left) / np.linalg.norm(change))
        tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
    if not errors:
        raise InputError("--as=lora: training changed no layer but the head; use --format=hf")
    write_tensors(folder / ADAPTERS[0], {**tensors, **peft.whole(finished, layout, saved)})
    content = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "fan_in_fan_out": bool(turned),
        "target_modules": list(errors),
        **peft.stated(checkpoint, port, saved),
    }
    files.write_json(folder / ADAPTER_CONFIG, content)
    return errors


def factors(change: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(A [rank, in, ...], B [out, rank, 1, ...]) float32, whose product is the nearest to a change [out, in, ...].

    Zeros fill up what is above the change's own rank.
    """
    flat = change.reshape(len(change), -1)
    u, s, v = np.linalg.svd(flat, full_matrices=False)
    root, kept = np.sqrt(s[:rank]), min(rank, len(s))
    a, b = np.zeros((rank, flat.shape[1]), np.float32), np.zeros((len(flat), rank), np.float32)
    a[:kept], b[:, :kept] = root[:, None] * v[:kept], u[:, :kept] * root
    return a.reshape(rank, *change.shape[1:]), b.reshape(*b.shape, *(1,) * (change.ndim - 2))


def _stored(leaves: Mapping[str, Any], layout: Layout, port: Port) -> Mapping[str, Any]:
    """The checkpoint's tensors, whole where several leaves share one."""
    tree = unflatten(leaves)
    return store(tree.pop("params"), tree, layout, port)
