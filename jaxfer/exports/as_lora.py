"""What a run or a `peft` adapter did to each layer's weights, as LoRA: the largest singular vectors of the change.

By Eckart and Young no product of this rank is nearer to the change of a layer. So methods whose models merge (LoHa,
DoRA, OFT, LoRA from PiSSA's start, whole fine-tuning of kernels) can be used by servers that know LoRA alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.config.fields import AUTO
from jaxfer.errors import InputError
from jaxfer.exports import peft
from jaxfer.exports.tensors import write as write_tensors
from jaxfer.models.port import Port
from jaxfer.pretrained import adapter, foreign
from jaxfer.pretrained.adapter import PREFIX, in_memory, transposed
from jaxfer.pretrained.formats import reading
from jaxfer.pretrained.hub import ADAPTER_CONFIG, ADAPTERS
from jaxfer.pretrained.layout import CONV, Key, Layout, store
from jaxfer.registry import MODELS
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import FinishedRun

Changes = Iterable[tuple[str, np.ndarray]]


def of_run(finished: FinishedRun, layout: Layout, folder: epath.Path, *, rank: int) -> dict[str, float]:
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
    peft.refuse({leaf for leaf in changed if not _adaptable(leaf, keys[leaf], after[keys[leaf].name], layout)})
    changes = (
        (in_memory(layout, name.removesuffix(".weight")), after[name].astype(np.float64) - before[name])
        for name in sorted({keys[leaf].name for leaf in changed})
    )
    whole, stated = peft.whole(finished, layout, saved), peft.stated(checkpoint, port, saved)
    return _write(folder, changes, layout, rank, whole, stated)


def of_adapter(init: str, folder: epath.Path, *, rank: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The same of a `peft` adapter of another kind, for its own base; its layers keep their names.

    Returns:
      (the errors of its layers; its jaxfer.json, {} without one).

    Raises:
      InputError: no adapter of single layers, or one that changes what is no layer's weights.
    """
    checkpoint = foreign.opened(init, AUTO, {})
    source, layout = checkpoint.files, checkpoint.layout
    config, base = source.adapter.config, source.adapter.base
    before = reading.read(base.weights)
    after = adapter.merged(source, before)
    port = MODELS.make(layout.family, outputs=checkpoint.outputs, **checkpoint.options)
    known = {adapter.name_of(layout, key.name): (leaf, key) for leaf, key in layout.keys(port).items()}
    modules, whole = config.get("modules_to_save") or (), {}
    for key in (*after.merged, *after.moved):
        if any(f"{module}." in after.moved.get(key, "") for module in modules):
            whole[after.moved[key]] = after[key]
            continue
        place = known.get(adapter.name_of(layout, key))  # None of a layer that our model goes without
        if key in after.moved or place is None or not _adaptable(*place, after[key], layout):
            raise InputError(f"{init}: --as=lora has no word for what the adapter does to {key}; use it as it is")
    changes = ((module, after[key].astype(np.float64) - before[key]) for key, module in after.merged.items())
    stated = {
        "task_type": config.get("task_type"),
        "base_model_name_or_path": base.init,
        "revision": base.commit,
        "modules_to_save": sorted(modules),
        "inference_mode": True,
    }
    return _write(folder, changes, layout, rank, whole, stated), source.marker


def _adaptable(leaf: str, key: Key, tensor: np.ndarray, layout: Layout) -> bool:
    """Whether peft's LoRA adapts it: products, and windows over an image that are taken as they are."""
    window = key.transform is CONV and not layout.standardised
    return leaf.endswith("/kernel") and (tensor.ndim == 2 or window)


def _write(
    folder: epath.Path,
    changes: Changes,
    layout: Layout,
    rank: int,
    whole: Mapping[str, np.ndarray],
    stated: Mapping[str, Any],
) -> dict[str, float]:
    """Writes the adapter of changes {module: as its weights are stored}; `whole` are tensors that it holds besides."""
    tensors, errors, turned = {}, {}, False
    for module, change in changes:
        if not change.any():
            continue
        if transposed(layout, module):
            change, turned = change.T, True
        a, b = factors(change, rank)
        left = change - np.tensordot(b.reshape(len(b), rank), a, 1)
        errors[module] = float(np.linalg.norm(left) / np.linalg.norm(change))
        tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
    if not errors:
        raise InputError("--as=lora: no layer but the head was changed; use --format=hf")
    write_tensors(folder / ADAPTERS[0], {**tensors, **whole})
    content = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "fan_in_fan_out": turned,
        "target_modules": list(errors),
        **stated,
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
