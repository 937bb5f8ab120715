"""Export a run as a `peft` adapter: what its method learned beside the kernels, and its head, for its checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.exports.peft_tensors import WRITTEN
from jaxfer.exports.tensors import write as write_tensors
from jaxfer.methods import _kernels, prefix_tuning
from jaxfer.models.convolutions import GroupedConv
from jaxfer.models.port import Port
from jaxfer.pretrained import carrying, foreign, peft_prompts
from jaxfer.pretrained.adapter import PREFIX, in_memory, transposed
from jaxfer.pretrained.hub import ADAPTER_CONFIG, ADAPTERS
from jaxfer.pretrained.layout import CONV, Layout
from jaxfer.pretrained.peft_products import NORM as LN
from jaxfer.rules import flatten
from jaxfer.runs.finished import FinishedRun

NORMS = "norm_tuning"
TURNS = ("LORA", "VERA", "IA3")  # kinds with a word for layers whose weights are [in, out]


def write(finished: FinishedRun, layout: Layout, folder: epath.Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors of a run whose only stage adapts a checkpoint's layers.

    Raises:
      InputError: another method, layers that peft has no word for, a source that it can't name, or a changed backbone.
    """
    config, port, state = finished.stage.config, finished.stage.spec.port, finished.state
    _check(finished)
    if config.method in peft_prompts.METHODS:
        _write_prompts(finished, layout, folder)
        return
    if config.method == NORMS:
        _write_norms(finished, layout, folder)
        return
    checkpoint, keys, written = source(finished, layout), layout.keys(port), WRITTEN[config.method]
    backbone = {unit: leaf for unit, leaf in state.params.items() if unit != config.method}
    saved, _, changed = compared(checkpoint, layout, finished, {"params": backbone, **state.model_state})
    refuse(changed)
    own, tensors, layers = flatten(state.params[config.method]), {}, {}
    fused: dict[str, dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]] = {}
    for site in sorted({path.rsplit("/", 1)[0] for path in own}):
        key = keys[f"params/{site}/kernel"]
        module = in_memory(layout, key.name.removesuffix(".weight"))
        if inside(module, saved):  # saved whole, with its update
            continue
        part = {path.rsplit("/", 1)[1]: np.asarray(x) for path, x in own.items() if path.rsplit("/", 1)[0] == site}
        found = written.tensors(part, key.transform is CONV)
        what = None if found is not None else f"a layer for which peft's {written.kind} has other tensors"
        if port.summed(f"{site}/kernel") == 3 and (layout.standardised or key.transform is not CONV):
            what = "a convolution with a standardised kernel" if layout.standardised else "a window over time"
        # Parts of the module's inputs would share B, those of its outputs share A.
        shares = config.method == "lora" and key.axis == (-1 if transposed(layout, module) else 0)
        if key.part is not None and not shares:
            what = "one tensor of several layers"
        if config.method == "oft" and key.transform is CONV:
            height, width = flatten(backbone)[f"{site}/kernel"].shape[:2]
            if height * width > 1:  # and adds the rotated windows up, which is no convolution by a turned kernel
                what = f"a convolution of {height} x {width}, whose whole windows peft turns"
            elif isinstance(_kernels.modules(port).get(site), GroupedConv):
                what = "a grouped convolution"
        if what is not None:
            raise InputError(f"--format=peft: {module} is {what}, which peft can't adapt as we do; use --format=hf")
        if key.part is not None:
            fused.setdefault(module, {})[key.part] = tuple(found.values())
            continue
        layers[module] = part
        tensors |= {f"{PREFIX}{module}.{name}": tensor for name, tensor in found.items()}
    for module, parts in fused.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"], tensors[f"{PREFIX}{module}.lora_B.weight"] = _fused(parts)
    tensors |= whole(finished, layout, saved)
    extra = state.extra
    while isinstance(extra, Mapping) and "base" in extra:  # an add-on keeps the method's own state there
        extra = extra["base"]
    write_tensors(folder / ADAPTERS[0], {**tensors, **written.shared(extra)})
    turned = {"fan_in_fan_out": any(transposed(layout, module) for module in (*layers, *fused))}
    content = {
        "peft_type": written.kind,
        **written.config(config.options, layers, {module: len(parts) for module, parts in fused.items()}),
        "target_modules": sorted((*layers, *fused)) if fused else list(layers),
        **(turned if written.kind in TURNS else {}),
        **stated(checkpoint, port, saved),
    }
    files.write_json(folder / ADAPTER_CONFIG, content)


def _write_prompts(finished: FinishedRun, layout: Layout, folder: epath.Path) -> None:
    """Prompts or prefixes as peft stores them: what it reads in front of a text, and the head."""
    config, port, params = finished.stage.config, finished.stage.spec.port, dict(finished.state.params)
    name, checkpoint = config.method, source(finished, layout)
    learned = params.pop(name)
    saved, _, changed = compared(checkpoint, layout, finished, {"params": params, **finished.state.model_state})
    refuse(changed)
    made = prefix_tuning.made(learned, port) if name == "prefix_tuning" else learned
    tensors = {peft_prompts.LEARNED: peft_prompts.tensor(name, made, port)}
    leaves = flatten({"params": params})
    for leaf, key in layout.keys(port).items():
        if inside(module := in_memory(layout, key.name), saved):
            tensors[peft_prompts.PREFIX + module] = key.transform.store(np.asarray(leaves[leaf]))
    write_tensors(folder / ADAPTERS[0], tensors)
    own = {"prefix_projection": False, "encoder_hidden_size": port.options.width} if name == "prefix_tuning" else {}
    content = {
        "peft_type": {"prompt_tuning": "PROMPT_TUNING", "prefix_tuning": "PREFIX_TUNING"}[name],
        "num_virtual_tokens": config.options["tokens"],
        "num_layers": port.options.layers,
        "num_attention_heads": port.options.heads,
        "token_dim": port.options.width,
        "num_transformer_submodules": 1,
        **own,
        **stated(checkpoint, port, saved),
    }
    files.write_json(folder / ADAPTER_CONFIG, content)


def _write_norms(finished: FinishedRun, layout: Layout, folder: epath.Path) -> None:
    """Norms that differ from the checkpoint's as peft's LN_TUNING stores them: whole, with their running statistics."""
    port, state, checkpoint = finished.stage.spec.port, finished.state, source(finished, layout)
    model = {"params": state.params, **state.model_state}
    saved, _, changed = compared(checkpoint, layout, finished, model)
    leaves, keys = flatten(model), layout.keys(port)
    norms = {f"params/{path}" for path, leaf in finished.stage.spec.trainable.items() if leaf.group == "norm"}
    norms |= {leaf for leaf in leaves if leaf.startswith("batch_stats/")}
    refuse({leaf for leaf in changed if leaf not in norms or keys[leaf].part is not None})
    touched = {in_memory(layout, keys[leaf].name).rpartition(".")[0] for leaf in changed}
    if not touched:
        raise InputError("--format=peft: training changed no norm; use --format=hf")
    stored = {key.name: key.transform.store(np.asarray(leaves[leaf])) for leaf, key in keys.items()}
    stored |= {name: np.asarray(value) for name, value in layout.constants(port).items()}  # counts of batches
    tensors = {}
    for name, tensor in stored.items():
        module, _, own = in_memory(layout, name).rpartition(".")
        if module in touched:
            tensors[f"{PREFIX}{module}.{LN}{own}"] = tensor
    write_tensors(folder / ADAPTERS[0], {**tensors, **whole(finished, layout, saved)})
    content = {"peft_type": "LN_TUNING", "target_modules": sorted(touched), **stated(checkpoint, port, saved)}
    files.write_json(folder / ADAPTER_CONFIG, content)


def stated(checkpoint: foreign.Checkpoint, port: Port, saved: Collection[str]) -> dict[str, Any]:
    """What adapter_config.json says of any adapter: of which checkpoint it is, and the modules that it holds whole."""
    return {
        "task_type": None if "image" in port.inputs else "SEQ_CLS",
        "base_model_name_or_path": checkpoint.files.init,
        "revision": checkpoint.files.commit,
        "modules_to_save": sorted(saved),
        "inference_mode": True,
    }


def whole(finished: FinishedRun, layout: Layout, saved: Collection[str]) -> dict[str, np.ndarray]:
    """{name in the file: tensor} of the modules that the adapter holds whole."""
    leaves, tensors = flatten({"params": finished.stage.leave(finished.state)[0]}), {}
    for leaf, key in layout.keys(finished.stage.spec.port).items():
        if inside(name := in_memory(layout, key.name), saved):
            tensors[PREFIX + name] = key.transform.store(np.asarray(leaves[leaf]))
    return tensors


def _check(finished: FinishedRun) -> None:
    """`InputError` unless peft has a word for what the run's method has learned."""
    config, family = finished.stage.config, finished.experiment.model.name
    if config.method in peft_prompts.METHODS:
        known = peft_prompts.families(config.method)
        if config.options["form"] != "peft":
            raise InputError(
                f"--format=peft: form={config.options['form']!r} of {config.method} is not what peft computes; train "
                "with config.options.form=peft"
            )
        if family not in known:
            raise InputError(f"--format=peft: peft has {config.method} for {', '.join(known)} alone, found a {family}")
    elif config.method not in (*WRITTEN, NORMS):
        known = ", ".join((*WRITTEN, NORMS, *sorted(peft_prompts.METHODS)))
        raise InputError(f"--format=peft needs a run of {known}; this one ends with {config.method!r}; use --format=hf")
    if finished.stage.spec.method.evaluated is not None:
        adds = ", ".join(config.adds)
        raise InputError(
            f"--format=peft writes parameters as trained, this run is of averages ({adds}); use --format=hf"
        )
    if config.method in WRITTEN and (start := config.options.get("start", "zero")) != "zero":
        raise InputError(
            f"--format=peft: start={start!r} changed the frozen kernels, and an adapter goes onto those of the "
            "checkpoint; add --as=lora --rank=R, exact from twice its rank on, or use --format=hf"
        )


def source(finished: FinishedRun, layout: Layout) -> foreign.Checkpoint:
    """The checkpoint that an adapter of this run is for.

    Raises:
      InputError: it is none that peft can wrap, or the model is none of transformers.
    """
    experiment, port = finished.experiment, finished.stage.spec.port
    init, family = experiment.run.init, experiment.model.name
    if not foreign.is_foreign(init):
        raise InputError(f"--format=peft needs a checkpoint to adapt, this run started from {init}; use --format=hf")
    checkpoint = foreign.opened(init, family, dict(experiment.model.options), experiment.init_options)
    if peft_prompts.method(checkpoint.files) is not None:  # training went on from prompts, which are beside their base
        base = checkpoint.files.adapter.base
        init = base.init if base.commit is None else f"{base.init}@{base.commit}"
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
    )  # raises where no transformers class computes it
    return checkpoint


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


def inside(name: str, modules: Collection[str]) -> bool:
    """Whether a module or tensor is one of these modules, or lies in one."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def compared(
    checkpoint: foreign.Checkpoint, layout: Layout, finished: FinishedRun, model: Mapping[str, Any]
) -> tuple[frozenset[str], dict[str, Any], set[str]]:
    """What of a model its checkpoint does not have.

    Args:
      checkpoint: of `source`.
      layout: of the model.
      finished: the run.
      model: {"params": tree, collection of the model's state: tree}, of the port alone.

    Returns:
      (the modules that an adapter holds whole: the head, and layers before it that the checkpoint lacks; the
      checkpoint's leaves, `Stored` where its precision is another; those of the model outside of these modules that
      differ).
    """
    port, leaves = finished.stage.spec.port, flatten(model)
    head = [leaf for leaf in leaves if leaf.startswith(f"params/{port.head}/")]
    differs = finished.experiment.run.differs
    source = carrying.carry(checkpoint, port, leaves, reset=head, differs=differs, lazy=True)
    base = flatten({"params": source.params, **source.model_state})
    resized = [leaf for leaf, entry in source.ledger.items() if entry["what"] in ("resized", "inflated")]
    moved = [leaf for leaf in base if not np.array_equal(np.asarray(base[leaf]), jax.device_get(leaves[leaf]))]
    names = {leaf: in_memory(layout, key.name) for leaf, key in layout.keys(port).items()}
    before = [leaf for leaf in source.fresh if leaf.startswith(f"params/{port.units[-1]}/")]
    modules = {names[leaf].split(".")[0] for leaf in head}
    modules |= {names[leaf].rpartition(".")[0] for leaf in before if not inside(names[leaf], modules)}
    # peft takes every module whose name ends so: with `classifier`, DistilBERT's `pre_classifier` too.
    modules |= {module for name in names.values() if (module := name.rpartition(".")[0]).endswith(tuple(modules))}
    changed = {leaf for leaf in (*resized, *moved, *source.fresh) if not inside(names.get(leaf, leaf), modules)}
    return frozenset(modules), base, changed


def refuse(changed: Collection[str]) -> None:
    """`InputError` for leaves of the backbone that an adapter has no place for, if there are any."""
    if changed:
        raise InputError(
            f"--format=peft: {len(changed)} leaves of the backbone differ from the checkpoint ({min(changed)}), which "
            "an adapter can't carry; use --format=hf"
        )
