"""Load a `peft` adapter: merge what it makes of single layers into the base checkpoint, replace its saved modules."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxfer.errors import InputError
from jaxfer.pretrained.families import by_model_type
from jaxfer.pretrained.formats import reading
from jaxfer.pretrained.formats.reading import Weights
from jaxfer.pretrained.hub import CheckpointFiles
from jaxfer.pretrained.layout import Layout
from jaxfer.pretrained.peft_kinds import KINDS, MERGE, Kind, Layer

PREFIX = "base_model.model."
# Fields of adapter_config.json that say what is what, and those that only affect training or lookup in peft.
READ = ("peft_type", "base_model_name_or_path", "revision", "modules_to_save", "bias")
OF_TRAINING = (
    *("task_type", "auto_mapping", "peft_version", "inference_mode", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "megatron_config", "megatron_core"),
)


def in_memory(layout: Layout, name: str) -> str:
    """The in-memory name in transformers 5 of a module or tensor called `name` on the Hub, prefix included."""
    for pattern, replacement in layout.in_memory:
        name = re.sub(pattern, replacement, name)
    return name


def transposed(layout: Layout, module: str) -> bool:
    """Whether a module's weight is [in, out]."""
    return layout.transposed is not None and re.fullmatch(layout.transposed, _bare(layout, module)) is not None


def merged(source: CheckpointFiles, base: Weights) -> Weights:
    """Merges an adapter into its base: adds its updates (changed tensors become float32) and replaces saved modules.

    Args:
      source: the adapter's files.
      base: the base's tensors.

    Raises:
      InputError: an unsupported adapter, or an update without a tensor in the base.
    """
    config, layout = source.adapter.config, by_model_type(source.config.get("model_type"))
    kind = _kind(source.init, config, layout)
    changes, shared, saved = _sorted(source, config, kind)
    keys = {_canonical(layout, key): key for key in base}
    tensors, touched, moved = dict(base), {}, {}
    for module, own in changes.items():
        key, bias = (keys.get(_canonical(layout, f"{module}.{name}")) for name in ("weight", "bias"))
        if key is None:
            raise InputError(f"{source.init}: the adapter changes {module}, which its base model does not have")
        weight, turned = base[key], transposed(layout, module)
        if layout.standardised and weight.ndim == 4:
            raise InputError(
                f"{source.init}: the adapter adds to the output of {module}, whose kernel is standardised before it is "
                "applied, so that nothing added to it does the same; give another checkpoint"
            )
        if not jnp.issubdtype(weight.dtype, jnp.floating):
            raise InputError(f"{source.init}: expected numbers in {key} of its base, found {weight.dtype}")
        exact = np.asarray(weight, np.float64)
        layer = Layer(
            init=source.init,
            config=config,
            module=module,
            tensors={name: np.asarray(tensor, np.float64) for name, tensor in own.items()},
            shared=shared,
            key=key,
            weight=exact.T if turned else exact,
            bias=None if bias is None else np.asarray(base[bias], np.float64),
        )
        made, shift = kind.merge(layer)
        tensors[key], touched[key] = (made.T if turned else made).astype(np.float32), module
        if shift is not None and shift is not layer.bias:
            tensors[bias], touched[bias] = shift.astype(np.float32), module
    for name, tensor in saved.items():
        key = keys.get(_canonical(layout, name), name)
        tensors[key], moved[key] = tensor, PREFIX + name
    return dataclasses.replace(base, tensors=tensors, merged=touched, moved=moved)


def low_rank(source: CheckpointFiles) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{layer: (A [r, in], B [out, r], scaled)} of a LoRA on dense layers; `name_of` has the names of layers.

    Raises:
      InputError: another kind of adapter, DoRA, or one of convolutions.
    """
    config, layout = source.adapter.config, by_model_type(source.config.get("model_type"))
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else config.get("peft_type")
        raise InputError(f"{source.init}: a peft adapter of {kind} can't be held beside its model; expected LORA")
    kind, factors = _kind(source.init, config, layout), {}
    for module, tensors in _sorted(source, config, kind)[0].items():
        a, b = (np.asarray(tensors[f"lora_{name}.weight"], np.float32) for name in "AB")
        if a.ndim != 2 or b.ndim != 2:
            raise InputError(f"{source.init}: {module} is no dense layer, and its LoRA can't be held beside its model")
        nothing = np.zeros(0)
        layer = Layer(source.init, config, module, tensors, {}, module, nothing, None)
        factors[name_of(layout, module)] = a, b * np.float32(layer.scale("lora_alpha", len(a)))
    return factors


def name_of(layout: Layout, module: str) -> str:
    """A layer's name in transformers 5's form, without the family's prefix."""
    return _canonical(layout, module)


def _kind(init: str, config: Mapping[str, Any], layout: Layout) -> Kind:
    name = config.get("peft_type")
    if name not in KINDS:
        raise InputError(f"{init}: a peft adapter of type {name!r}; expected {', '.join(KINDS)}, or {MERGE}")
    kind = KINDS[name]
    # Where there are modules with such weights, peft itself goes by the module that it wraps.
    known = {*READ, *OF_TRAINING, *kind.reads, *kind.leaves, *kind.fixed}
    known |= {"fan_in_fan_out"} if layout.transposed else set()
    odd = {field: value for field, value in config.items() if field not in known and value}
    odd |= {"bias": config["bias"]} if config.get("bias", "none") != "none" else {}
    odd |= {field: config[field] for field, right in kind.fixed.items() if config.get(field) not in right}
    if odd:
        fields = ", ".join(f"{name}={value!r}" for name, value in sorted(odd.items()))
        raise InputError(f"{init}: adapter_config.json says {fields}, which is not supported; {MERGE}")
    return kind


def _sorted(
    source: CheckpointFiles, config: Mapping[str, Any], kind: Kind
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """({module: {what stands behind its name: tensor}}, shared tensors, {key: tensor} of the saved modules).

    Names are without peft's prefix.
    """
    changes: dict[str, dict[str, np.ndarray]] = {}
    saved, odd, modules, found = {}, [], config.get("modules_to_save") or (), {}
    ends = re.compile(rf"(.+)\.({'|'.join(map(re.escape, kind.tensors))})")
    for key, tensor in reading.read(source.adapter.weights).items():
        name = key.removeprefix(PREFIX)
        if key in kind.shared:
            found[key] = np.asarray(tensor, np.float64)
        elif hit := ends.fullmatch(name):
            changes.setdefault(hit[1], {})[hit[2]] = tensor
        # peft saves every module whose name ends so: with `classifier`, DistilBERT's `pre_classifier` too.
        elif key != name and any(f"{module}." in name for module in modules):
            saved[name] = tensor
        else:
            odd.append(key)
    odd += [f"{module} without its other half" for module, own in changes.items() if not set(kind.needs) <= own.keys()]
    odd += [f"no {key}" for key in kind.shared if key not in found]
    if odd:
        raise InputError(
            f"{source.init}: {source.adapter.weights.name} holds {odd[0]} ({len(odd)} such), which is neither of a "
            f"layer's {config['peft_type']} nor one of the modules to save ({', '.join(modules) or 'none'}); {MERGE}"
        )
    return changes, {key: found[key] for key in kind.shared}, saved


def _canonical(layout: Layout, name: str) -> str:
    """A tensor's name without the family's prefix, in transformers 5's in-memory form."""
    return in_memory(layout, f".{_bare(layout, name)}")


def _bare(layout: Layout, name: str) -> str:
    """A name without the family's prefix."""
    return next((name[len(prefix) :] for prefix in layout.prefixes if name.startswith(prefix)), name)
