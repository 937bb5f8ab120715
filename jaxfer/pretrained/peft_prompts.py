"""`peft` files of prompts and prefixes, which no layer's weights can take up: read as our methods' own parameters.

peft's form of the methods computes what peft does. Its files hold what an encoder (P_TUNING) or an MLP made of what was
trained, never the encoder itself; the head is stored whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfer.errors import InputError
from jaxfer.methods.prefix_tuning import attentions
from jaxfer.models.port import Port
from jaxfer.pretrained.families import by_model_type, layouts
from jaxfer.pretrained.formats import reading
from jaxfer.pretrained.formats.reading import Weights
from jaxfer.pretrained.hub import CheckpointFiles
from jaxfer.rules import unflatten

PREFIX, LEARNED = "base_model.", "prompt_embeddings"
KINDS = {"PROMPT_TUNING": "prompt_tuning", "P_TUNING": "prompt_tuning", "PREFIX_TUNING": "prefix_tuning"}
METHODS = frozenset(KINDS.values())


def families(method: str) -> list[str]:
    """Families on which the method computes what peft does, as their layouts say.

    transformers' decoders don't see where a text of embeddings ends. Of the other encoders some take no cache, and
    peft can't wrap some at all.
    """
    return sorted({layout.family for layout in layouts() if method in layout.prompts})


def method(source: CheckpointFiles) -> str | None:
    """The method of such an adapter; None for any other checkpoint."""
    return None if source.adapter is None else KINDS.get(source.adapter.config.get("peft_type"))


def options(source: CheckpointFiles) -> dict[str, Any]:
    """The options under which the method computes what peft does."""
    count = source.adapter.config.get("num_virtual_tokens")
    if not isinstance(count, int) or count < 1:
        raise InputError(f"{source.init}: adapter_config.json has no num_virtual_tokens (found {count!r})")
    return {"tokens": count, "form": "peft", **({"hidden": 0} if method(source) == "prefix_tuning" else {})}


def headed(source: CheckpointFiles, base: Weights) -> Weights:
    """The base's tensors with the head that is stored beside the prompts.

    Raises:
      InputError: an adapter of another task or family than those whose outputs we know to be peft's.
    """
    config, name = source.adapter.config, method(source)
    layout, kind = by_model_type(source.config.get("model_type")), config["peft_type"]
    if name not in layout.prompts:
        known = ", ".join(families(name))
        raise InputError(f"{source.init}: {kind} is read for {known}, its base is a {layout.family}")
    if config.get("task_type") != "SEQ_CLS" or config.get("num_transformer_submodules", 1) != 1:
        task = config.get("task_type")
        raise InputError(f"{source.init}: {kind} is read for task_type 'SEQ_CLS' of one encoder, found {task!r}")
    tensors = reading.read(source.adapter.weights)
    heads = {key.removeprefix(PREFIX): key for key in tensors if key != LEARNED}
    modules = config.get("modules_to_save") or ()
    odd = [key for name, key in heads.items() if key == name or name.split(".")[0] not in modules]
    if odd or LEARNED not in tensors:
        what = f"{odd[0]}, which is neither {LEARNED} nor of a saved module" if odd else f"no {LEARNED}"
        raise InputError(f"{source.init}: {source.adapter.weights.name} holds {what}")
    own = {name: tensors[key] for name, key in heads.items()}
    return dataclasses.replace(base, tensors={**base, **own}, moved=heads)


def learned(source: CheckpointFiles, port: Port) -> dict[str, Any]:
    """The method's parameters, {unit: tree}, with these options.

    Raises:
      InputError: a tensor of another shape than the model's.
    """
    found = np.asarray(reading.read(source.adapter.weights)[LEARNED], np.float32)
    count, prefix = options(source)["tokens"], method(source) == "prefix_tuning"
    sites = attentions(port) if prefix else {}
    heads, width = next(iter(sites.values())) if prefix else (1, port.options.width)
    wanted = (count, max(2 * len(sites), 1) * heads * width)
    if found.shape != wanted:
        raise InputError(f"{source.init}: {LEARNED} is {list(found.shape)}, expected {list(wanted)} of its base")
    if not np.isfinite(found).all():
        raise InputError(f"{source.init}: {LEARNED} holds NaN or infinity; download it again")
    if not prefix:
        return {port.units[0]: {"prompts": found}}
    parts = found.reshape(count, len(sites), 2, heads, width).transpose(1, 2, 0, 3, 4)
    return unflatten({f"{site}/prefix": part for site, part in zip(sites, parts, strict=True)})


def tensor(name: str, made: Mapping[str, Any], port: Port) -> np.ndarray:
    """`prompt_embeddings` of a method's parameters; of a prefix, {attention: (keys, values)}."""
    if name == "prompt_tuning":
        return np.asarray(made[port.units[0]]["prompts"])
    each = np.stack([np.stack([np.asarray(x) for x in made[site]]) for site in attentions(port)])
    return each.transpose(2, 0, 1, 3, 4).reshape(each.shape[2], -1)
