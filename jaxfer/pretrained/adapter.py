"""Load a `peft` adapter: merge its low-rank updates into the base checkpoint and replace its saved modules.

Hu et al., 2021, arXiv:2106.09685, eq. 3: W + scale * B A, where scale is `lora_alpha / r`, or `lora_alpha / sqrt(r)`
for rank-stabilised LoRA (Kalajdzievski, 2023, arXiv:2312.03732). peft's layers compute the same as
jaxfer's: A of a convolution has the window and stride of the base layer, and B is a 1x1 convolution.
"""

from __future__ import annotations

import dataclasses
import math
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

PREFIX = "base_model.model."
# Fields of adapter_config.json that `merged` uses, and those that only affect training or lookup in peft.
READ = {
    *("peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "rank_pattern", "alpha_pattern"),
    *("use_rslora", "modules_to_save", "bias", "init_lora_weights"),
}
OF_TRAINING = {
    *("task_type", "auto_mapping", "peft_version", "inference_mode", "lora_dropout", "target_modules"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "megatron_config", "megatron_core", "eva_config"),
    *("loftq_config", "corda_config", "lora_ga_config", "qalora_group_size"),
}
# Other initialisations (PiSSA, OLoRA, LoftQ, ...) change the base model's own weights when peft loads them.
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
# Limits on a stranger's name pattern; peft itself writes plain names.
LONGEST_PATTERN, REPETITIONS, CHOICES = 500, 3, 4
MERGE = "merge it with peft (`merge_and_unload`) and give the merged model"


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
    _check_config(source.init, config, layout)
    updates, saved = _sorted(source, config)
    keys = {_canonical(layout, key): key for key in base}
    tensors, touched, moved = dict(base), {}, {}
    for module, (a, b) in updates.items():
        key = keys.get(_canonical(layout, f"{module}.weight"))
        if key is None:
            raise InputError(f"{source.init}: the adapter changes {module}, which its base model does not have")
        product, weight = _product(a, b), base[key]
        if product is not None and transposed(layout, module):
            product = product.T
        if layout.standardised and weight.ndim == 4:
            raise InputError(
                f"{source.init}: the adapter adds to the output of {module}, whose kernel is standardised before it is "
                "applied, so that nothing added to it does the same; give another checkpoint"
            )
        if product is None or product.shape != weight.shape or not jnp.issubdtype(weight.dtype, jnp.floating):
            shapes = f"A {list(a.shape)} and B {list(b.shape)}"
            raise InputError(
                f"{source.init}: {shapes} of {module} don't form an update of {key} {list(weight.shape)} {weight.dtype}"
            )
        scale = _scale(source.init, config, module, rank=a.shape[0])
        with np.errstate(over="ignore", invalid="ignore"):
            update = scale * product
            tensors[key] = (weight.astype(np.float64) + update).astype(np.float32)
            finite = np.isfinite(update.astype(np.float32)).all()
        if not finite:
            raise InputError(
                f"{source.init}: the update of {module}, scaled by {scale:g}, is not finite in float32; correct "
                "lora_alpha, or download the adapter again"
            )
        touched[key] = module
    for name, tensor in saved.items():
        key = keys.get(_canonical(layout, name), name)
        tensors[key], moved[key] = tensor, PREFIX + name
    return dataclasses.replace(base, tensors=tensors, merged=touched, moved=moved)


def _check_config(init: str, config: Mapping[str, Any], layout: Layout) -> None:
    if config.get("peft_type") != "LORA":
        raise InputError(f"{init}: a peft adapter of type {config.get('peft_type')!r}; expected 'LORA', {MERGE}")
    # Where there are modules with such weights, peft itself goes by the module that it wraps.
    known = READ | OF_TRAINING | ({"fan_in_fan_out"} if layout.transposed else set())
    odd = {name: value for name, value in config.items() if name not in known and value}
    odd |= {"bias": config["bias"]} if config.get("bias", "none") != "none" else {}
    start = config.get("init_lora_weights", True)
    odd |= {"init_lora_weights": start} if start not in PLAIN_STARTS else {}
    if odd:
        fields = ", ".join(f"{name}={value!r}" for name, value in sorted(odd.items()))
        raise InputError(f"{init}: adapter_config.json says {fields}, which is not supported; {MERGE}")


def _sorted(
    source: CheckpointFiles, config: Mapping[str, Any]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, np.ndarray]]:
    """({module: (A, B)}, {key: tensor} of the saved modules), both without peft's prefix."""
    pairs: dict[str, dict[str, np.ndarray]] = {}
    saved, odd, modules = {}, [], config.get("modules_to_save") or ()
    for key, tensor in reading.read(source.adapter.weights).items():
        name = key.removeprefix(PREFIX)
        if hit := re.fullmatch(r"(.+)\.lora_([AB])\.weight", name):
            pairs.setdefault(hit[1], {})[hit[2]] = tensor
        # peft saves every module whose name ends so: with `classifier`, DistilBERT's `pre_classifier` too.
        elif key != name and any(f"{module}." in name for module in modules):
            saved[name] = tensor
        else:
            odd.append(key)
    odd += [f"{module} without its other half" for module, pair in pairs.items() if len(pair) < 2]
    if odd:
        raise InputError(
            f"{source.init}: {source.adapter.weights.name} holds {odd[0]} ({len(odd)} such), which is neither a LoRA "
            f"pair nor one of the modules to save ({', '.join(modules) or 'none'}); {MERGE}"
        )
    return {module: (pair["A"], pair["B"]) for module, pair in pairs.items()}, saved


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """B A in float64: [out, in] for linear layers, [out, in, h, w] for convolutions; None if the shapes don't match."""
    if a.ndim == b.ndim == 4 and b.shape[2:] == (1, 1):
        b = b[:, :, 0, 0]
    if a.ndim not in (2, 4) or b.ndim != 2 or a.shape[0] != b.shape[1]:
        return None
    return np.tensordot(b.astype(np.float64), a.astype(np.float64), 1)


def _scale(init: str, config: Mapping[str, Any], module: str, *, rank: int) -> float:
    """The scale of one module's update, from its own rank and alpha or the common ones."""
    try:
        r = _by_module(config.get("rank_pattern"), module, config.get("r"))
        alpha = float(_by_module(config.get("alpha_pattern"), module, config.get("lora_alpha")))
    except (TypeError, ValueError, re.error) as error:
        raise InputError(f"{init}: adapter_config.json has no rank and alpha for {module} ({error})") from None
    if r != rank:
        raise InputError(f"{init}: adapter_config.json gives {module} rank {r!r}, its tensors have {rank}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_module(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Looks up a module's value as peft does: the first pattern that matches the end of its name."""
    for pattern, value in (patterns or {}).items():
        if not _quick(pattern):
            raise ValueError(f"the pattern {pattern[:80]!r} may take forever to match; name the modules")
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _quick(pattern: str) -> bool:
    """Whether an untrusted pattern matches in bounded time: no repeated groups, few repetitions and choices."""
    bare = re.sub(r"\\.|\[\^?\]?[^]]*\]", "x", pattern, flags=re.DOTALL).replace("(?:", "(")
    return (
        len(pattern) <= LONGEST_PATTERN
        and not re.search(r"\)[*+?{]*[*+{]|\(\?", bare)
        and len(re.findall(r"[*+{]", bare)) <= REPETITIONS
        and max(bare.count("?"), bare.count("(")) <= CHOICES
    )


def _canonical(layout: Layout, name: str) -> str:
    """A tensor's name without the family's prefix, in transformers 5's in-memory form."""
    return in_memory(layout, f".{_bare(layout, name)}")


def _bare(layout: Layout, name: str) -> str:
    """A name without the family's prefix."""
    return next((name[len(prefix) :] for prefix in layout.prefixes if name.startswith(prefix)), name)
