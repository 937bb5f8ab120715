"""Load a `peft` adapter: merge what it makes of single layers into the base checkpoint, replace its saved modules."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxfer.errors import InputError, nearest
from jaxfer.pretrained.families import by_model_type
from jaxfer.pretrained.formats import reading
from jaxfer.pretrained.formats.reading import Weights
from jaxfer.pretrained.hub import CheckpointFiles
from jaxfer.pretrained.layout import Layout
from jaxfer.pretrained.peft_kinds import KINDS, LOW_RANK, MERGE, Kind
from jaxfer.pretrained.peft_layer import Layer

PREFIX = "base_model.model."
COPIES = re.compile(r".*\.(original_module|modules_to_save)\..*")  # of a saved module, beside its own name
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
    """Merges an adapter into its base: changes weights (which become float32) and replaces saved modules and biases.

    Args:
      source: the adapter's files.
      base: the base's tensors.

    Raises:
      InputError: an unsupported adapter, one that changes no layer, or a change without a tensor in the base.
    """
    config, layout = source.adapter.config, by_model_type(source.config.get("model_type"))
    kind = _kind(source.init, config, layout)
    stored = _sorted(source, config, kind)
    keys = {_canonical(layout, key): key for key in base}
    _check_known(source, layout, keys, stored)
    tensors, touched, moved = dict(base), {}, {}
    for name, (origin, tensor) in stored.replaced.items():
        tensors[keys[_canonical(layout, name)]] = tensor
        moved[keys[_canonical(layout, name)]] = origin
    shared = stored.shared
    if kind.drawn is not None and not shared:
        shapes = {module: tensors[keys[_canonical(layout, f"{module}.weight")]].shape for module in stored.changes}
        turned = [shape[::-1] if transposed(layout, module) else shape for module, shape in shapes.items()]
        shared = kind.drawn(source.init, config, next(iter(stored.changes.values())), turned)
    for module, own in stored.changes.items():  # one at a time: weights are in float64
        layer = _layer(source, layout, keys, tensors, module, own)
        for name, value in kind.merge(layer._replace(shared=shared)).items():
            key = keys.get(_canonical(layout, f"{module}.{name}"))
            if key is None:
                raise InputError(f"{source.init}: the adapter changes the {name} of {module}, which its base lacks")
            if not np.isfinite(value.astype(np.float32)).all():
                raise InputError(f"{source.init}: {name} of {module} would not be finite; download the adapter again")
            turned = name == "weight" and layer.turned
            tensors[key], touched[key] = (value.T if turned else value).astype(np.float32), module
    for name, tensor in stored.saved.items():
        key = keys.get(_canonical(layout, name), name)
        tensors[key], moved[key] = tensor, PREFIX + name
    return dataclasses.replace(base, tensors=tensors, merged=touched, moved=moved)


def _check_known(source: CheckpointFiles, layout: Layout, keys: Mapping[str, str], stored: _Stored) -> None:
    """`InputError` for an adapter that changes no layer, or one that its base does not have, with the nearest names."""
    if not stored.changes and not stored.replaced:
        held = f"only the saved {', '.join(sorted(stored.saved))}" if stored.saved else "nothing"
        raise InputError(
            f"{source.init}: {source.adapter.weights.name} holds {held}, so the adapter changes no layer of its base; "
            "save it again, whole"
        )
    wanted = {module: f"{module}.weight" for module in stored.changes} | {name: name for name in stored.replaced}
    lacking = [name for name, tensor in wanted.items() if _canonical(layout, tensor) not in keys]
    if lacking:
        known = {in_memory(layout, key.removesuffix(".weight")) for key in keys.values() if key.endswith(".weight")}
        many = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(
            f"{source.init}: the adapter changes {lacking[0]}{many}, which its base model does not have"
            f"{nearest(lacking[0], known)}"
        )


def _layer(
    source: CheckpointFiles,
    layout: Layout,
    keys: Mapping[str, str],
    tensors: Mapping[str, np.ndarray],
    module: str,
    own: Mapping[str, np.ndarray],
) -> Layer:
    """A layer of the base, and what the adapter has of it."""
    key, bias = (keys.get(_canonical(layout, f"{module}.{name}")) for name in ("weight", "bias"))
    weight, turned = tensors[key], transposed(layout, module)
    if layout.standardised and weight.ndim == 4:
        raise InputError(
            f"{source.init}: the adapter adds to the output of {module}, whose kernel is standardised before it is "
            "applied, so that nothing added to it does the same; give another checkpoint"
        )
    if not jnp.issubdtype(weight.dtype, jnp.floating):
        raise InputError(f"{source.init}: expected numbers in {key} of its base, found {weight.dtype}")
    exact = np.asarray(weight, np.float64)
    return Layer(
        init=source.init,
        config=source.adapter.config,
        module=module,
        tensors={name: np.asarray(tensor, np.float64) for name, tensor in own.items()},
        shared={},
        key=key,
        weight=exact.T if turned else exact,
        bias=None if bias is None else np.asarray(tensors[bias], np.float64),
        turned=turned,
    )


def adds(source: CheckpointFiles) -> bool:
    """Whether the adapter adds to weights what does not depend on them, so that several of them have a sum."""
    config = source.adapter.config
    return KINDS[config["peft_type"]].adds and not config.get("use_dora") and config.get("init_weights") != "bat"


def low_rank(source: CheckpointFiles) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
    """{layer: (A [r, in], B [out, r], scaled)} of a LoRA on dense layers; `name_of` has the names of layers.

    None for what is more than that: other kinds, DoRA, convolutions, embeddings, biases, starts that change the base.
    """
    config, layout = source.adapter.config, by_model_type(source.config.get("model_type"))
    kind, factors = _kind(source.init, config, layout), {}
    stored = _sorted(source, config, kind)
    plain = config["peft_type"] == "LORA" and config.get("init_lora_weights") not in ("pissa", "olora")
    if not plain or stored.replaced:
        return None
    for module, tensors in stored.changes.items():
        if tensors.keys() != set(LOW_RANK):
            return None
        a, b = (np.asarray(tensors[name], np.float32) for name in LOW_RANK)
        if a.ndim != 2 or b.ndim != 2:
            return None
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
    bias = config.get("bias", "none")
    odd |= {} if bias in ("none", "all") or str(bias).endswith("_only") else {"bias": bias}
    odd |= {field: config[field] for field, right in kind.fixed.items() if config.get(field) not in right}
    if odd:
        fields = ", ".join(f"{name}={value!r}" for name, value in sorted(odd.items()))
        raise InputError(f"{init}: adapter_config.json says {fields}, which is not supported; {MERGE}")
    return kind


class _Stored(NamedTuple):
    """The tensors of an adapter's file; names are without peft's prefix.

    Attributes:
      changes: {module: {what stands behind its name: tensor}}.
      shared: {name: tensor} of all layers.
      replaced: {name: (name in the file, tensor)} of the base's own tensors: trained biases, resized embeddings.
      saved: {name: tensor} of the saved modules.
    """

    changes: dict[str, dict[str, np.ndarray]]
    shared: dict[str, np.ndarray]
    replaced: dict[str, tuple[str, np.ndarray]]
    saved: dict[str, np.ndarray]


def _sorted(source: CheckpointFiles, config: Mapping[str, Any], kind: Kind) -> _Stored:
    stored, odd, modules = _Stored({}, {}, {}, {}), [], config.get("modules_to_save") or ()
    ends = re.compile(rf"(.+)\.({'|'.join(map(re.escape, kind.tensors))})")
    biases = config.get("bias", "none") != "none"
    for key, tensor in reading.read(source.adapter.weights).items():
        name = key.removeprefix(PREFIX)
        if key in kind.shared:
            stored.shared[key] = np.asarray(tensor, np.float64)
        elif hit := ends.fullmatch(name):
            stored.changes.setdefault(hit[1], {})[hit[2]] = tensor
        elif biases and COPIES.fullmatch(name):
            continue
        # peft saves every module whose name ends so: with `classifier`, DistilBERT's `pre_classifier` too.
        elif key != name and any(f"{module}." in name for module in modules):
            stored.saved[name] = tensor
        elif key != name and (biases and name.endswith(".bias") or name.endswith(".base_layer.weight")):
            stored.replaced[name.replace(".base_layer.", ".")] = key, tensor
        else:
            odd.append(key)
    for module, own in stored.changes.items():
        if not any(own.keys() >= set(needed) for needed in kind.needs):
            odd.append(f"{module} without its other half")
    if kind.drawn is None or stored.shared:
        odd += [f"no {key}" for key in kind.shared if key not in stored.shared]
    if odd:
        raise InputError(
            f"{source.init}: {source.adapter.weights.name} holds {odd[0]} ({len(odd)} such), which is neither of a "
            f"layer's {config['peft_type']} nor one of the modules to save ({', '.join(modules) or 'none'}); {MERGE}"
        )
    return stored._replace(shared={key: stored.shared[key] for key in kind.shared if key in stored.shared})


def _canonical(layout: Layout, name: str) -> str:
    """A tensor's name without the family's prefix, in transformers 5's in-memory form."""
    return in_memory(layout, f".{_bare(layout, name)}")


def _bare(layout: Layout, name: str) -> str:
    """A name without the family's prefix."""
    return next((name[len(prefix) :] for prefix in layout.prefixes if name.startswith(prefix)), name)
