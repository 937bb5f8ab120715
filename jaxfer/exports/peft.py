"""Export a LoRA run as a `peft` adapter: its low-rank matrices and head, to load onto its source checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax
import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.exports.tensors import write as write_tensors
from jaxfer.pretrained import carrying, foreign
from jaxfer.pretrained.adapter import PREFIX, in_memory, transposed
from jaxfer.pretrained.hub import ADAPTER_CONFIG, ADAPTERS
from jaxfer.pretrained.layout import CONV, Layout
from jaxfer.rules import flatten
from jaxfer.runs.finished import FinishedRun


def write(finished: FinishedRun, layout: Layout, folder: epath.Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors of a run whose only stage is LoRA on a checkpoint.

    Raises:
      InputError: another method, a source that peft can't name, or a changed backbone.
    """
    experiment, config, port = finished.experiment, finished.stage.config, finished.stage.spec.port
    init, family = experiment.run.init, experiment.model.name
    if config.method != "lora":
        raise InputError(f"--format=peft needs a LoRA run, this one ends with {config.method!r}; use --format=hf")
    if (start := config.options["start"]) != "zero":
        raise InputError(
            f"--format=peft: start={start!r} changed the frozen kernels, and an adapter goes onto those of the "
            "checkpoint; use --format=hf"
        )
    if not foreign.is_foreign(init):
        raise InputError(f"--format=peft needs a checkpoint to adapt, this run started from {init}; use --format=hf")
    checkpoint = foreign.opened(init, family, dict(experiment.model.options), experiment.init_options)
    if not checkpoint.layout.model_types:
        raise InputError(f"--format=peft needs a transformers model, {init} has another layout; merge the run instead")
    # Such padding reads each convolution's stride, which peft's layers lack.
    if getattr(port.options, "tf_padding", False) or getattr(port.options, "padding", "") == "same":
        raise InputError(f"--format=peft: peft can't wrap the convolutions of a padded {family}; use --format=hf")
    if checkpoint.files.adapter is not None:
        raise InputError(f"--format=peft: {init} is an adapter itself, and peft does not stack them; use --format=hf")
    layout.config(
        port, dict(experiment.model.options), finished.classes
    )  # raises for models that no transformers class computes
    keys = layout.keys(port)
    saved = _saved(checkpoint, layout, finished)
    low, tensors, targets = flatten(finished.state.params["lora"]), {}, []
    fused: dict[str, dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]] = {}
    for site in sorted({path.rsplit("/", 1)[0] for path in low}):
        key = keys[f"params/{site}/kernel"]
        module = in_memory(layout, key.name.removesuffix(".weight"))
        if _inside(module, saved):  # saved whole, with its update
            continue
        a, b = (np.asarray(low[f"{site}/{name}"]) for name in "ab")
        # Parts of the module's inputs would share B, those of its outputs share A.
        split = key.part is not None and key.axis != (-1 if transposed(layout, module) else 0)
        if split or a.ndim == 4 and (layout.standardised or key.transform is not CONV):
            what = "a convolution with a standardised kernel" if layout.standardised else "a window over time"
            what = "one tensor of several layers" if split else what
            raise InputError(f"--format=peft: {module} is {what}, which peft can't adapt as we do; use --format=hf")
        factors = _torch_factors(a, b, conv=key.transform is CONV)
        if key.part is not None:
            fused.setdefault(module, {})[key.part] = factors
            continue
        targets.append(module)
        tensors[f"{PREFIX}{module}.lora_A.weight"], tensors[f"{PREFIX}{module}.lora_B.weight"] = factors
    for module, parts in fused.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"], tensors[f"{PREFIX}{module}.lora_B.weight"] = _fused(parts)
    leaves = flatten({"params": finished.stage.leave(finished.state)[0]})
    for leaf, key in keys.items():
        if _inside(name := in_memory(layout, key.name), saved):
            tensors[PREFIX + name] = key.transform.store(np.asarray(leaves[leaf]))
    write_tensors(folder / ADAPTERS[0], tensors)
    stabilised = config.options["scaling"] == "rank_stabilised"
    content = {
        "peft_type": "LORA",
        "task_type": None if "image" in port.inputs else "SEQ_CLS",
        "base_model_name_or_path": checkpoint.files.init,
        "revision": checkpoint.files.commit,
        "r": config.options["rank"],
        "lora_alpha": config.options["alpha"],
        "use_rslora": stabilised,
        # The rank of a fused layer is that of its parts together, the scale theirs.
        **{
            f"{name}_pattern": {module: len(parts) ** power * config.options[name] for module, parts in fused.items()}
            for name, power in {"rank": 1, "alpha": 0.5 if stabilised else 1}.items()
            if fused
        },
        "lora_dropout": 0.0,
        "target_modules": sorted((*targets, *fused)) if fused else targets,
        "modules_to_save": sorted(saved),
        "bias": "none",
        "fan_in_fan_out": any(transposed(layout, module) for module in (*targets, *fused)),
        "inference_mode": True,
    }
    files.write_json(folder / ADAPTER_CONFIG, content)


def _torch_factors(a: np.ndarray, b: np.ndarray, *, conv: bool) -> tuple[np.ndarray, np.ndarray]:
    """(A, B) in torch's axes: linear [r, in] and [out, r], convolution [r, in, h, w] and [out, r, 1, 1]."""
    if conv:
        return CONV.store(a), b.T[:, :, None, None]
    rank = b.shape[0]
    return a.reshape(-1, rank).T, b.reshape(rank, -1).T


def _fused(parts: Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(A, B) of one layer, [n r, in] and [out, n r], from those of n of its parts: {(index, count): (A, B)}.

    B is block diagonal; parts without an update have zeros.
    """
    (_, count), *_ = parts
    rows = next(iter(parts.values()))[1].shape[0]
    a = np.concatenate([parts[part][0] for part in sorted(parts)])
    b, column = np.zeros((count * rows, len(a)), a.dtype), 0
    for index, _ in sorted(parts):
        own = parts[index, count][1]
        b[index * rows : (index + 1) * rows, column : column + own.shape[1]] = own
        column += own.shape[1]
    return a, b


def _inside(name: str, modules: Collection[str]) -> bool:
    """Whether a module or tensor is one of these modules, or lies in one."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _saved(checkpoint: foreign.Checkpoint, layout: Layout, finished: FinishedRun) -> frozenset[str]:
    """The modules that the adapter holds whole: the head, and layers before it that the checkpoint lacks.

    Raises:
      InputError: training changed any other leaf outside the adapter.
    """
    port = finished.stage.spec.port
    backbone = {path: leaf for path, leaf in finished.state.params.items() if path != "lora"}
    leaves = flatten({"params": backbone, **finished.state.model_state})
    head = [leaf for leaf in leaves if leaf.startswith(f"params/{port.head}/")]
    source = carrying.carry(checkpoint, port, leaves, reset=head, differs=finished.experiment.run.differs)
    base = flatten({"params": source.params, **source.model_state})
    resized = [leaf for leaf, entry in source.ledger.items() if entry["what"] in ("resized", "inflated")]
    moved = [leaf for leaf in base if not np.array_equal(base[leaf], jax.device_get(leaves[leaf]))]
    names = {leaf: in_memory(layout, key.name) for leaf, key in layout.keys(port).items()}
    before = [leaf for leaf in source.fresh if leaf.startswith(f"params/{port.units[-1]}/")]
    modules = {names[leaf].split(".")[0] for leaf in head}
    modules |= {names[leaf].rpartition(".")[0] for leaf in before if not _inside(names[leaf], modules)}
    # peft takes every module whose name ends so: with `classifier`, DistilBERT's `pre_classifier` too.
    modules |= {module for name in names.values() if (module := name.rpartition(".")[0]).endswith(tuple(modules))}
    changed = {leaf for leaf in (*resized, *moved, *source.fresh) if not _inside(names.get(leaf, leaf), modules)}
    if changed:
        raise InputError(
            f"--format=peft: {len(changed)} leaves of the backbone differ from the checkpoint ({min(changed)}), which "
            "an adapter can't carry; use --format=hf"
        )
    return frozenset(modules)
