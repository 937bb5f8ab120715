"""Read a timm folder: translate `architecture` and `pretrained_cfg` of its config.json into fields of the layouts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfer.data.encodings.pixels import INTERPOLATIONS
from jaxfer.errors import InputError
from jaxfer.pretrained.families import layouts
from jaxfer.pretrained.families._image import pair

Array = np.ndarray
# Arguments that leave the computation unchanged; any other changes what the tensors compute.
ARGUMENTS = ("num_classes", "in_chans", "img_size", "global_pool", "pretrained", "drop_rate", "drop_path_rate")
FUSED = r"((?:.*\.)?blocks\.\d+\.attn)\.qkv\.(weight|bias)"


def is_timm(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is timm's: it names an architecture, and no family as transformers and others do."""
    return "architecture" in config and not {"model_type", "family"} & config.keys()


def fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translates timm's config.json into jaxfer's fields: `family`, `key_layout`, `heads` and `input` (preprocessing).

    An image's shorter edge is resized to `size / crop_pct`, or both edges with `crop_mode` squash, and the centre cut
    out, as `timm.data.create_transform` does for evaluation. Half of an odd margin is rounded down, as transformers
    does, where torchvision rounds to the even number. Absent fields have timm's defaults.

    Raises:
      InputError: an unsupported architecture, argument or preprocessing.
    """
    name = config["architecture"]
    known = [layout for layout in layouts() if layout.timm is not None]
    hits = ((layout, re.fullmatch(layout.timm.names, name)) for layout in known if isinstance(name, str))
    layout, hit = next(((layout, hit) for layout, hit in hits if hit), (None, None))
    if layout is None:
        shown = "; ".join(layout.timm.shown for layout in known)
        raise InputError(
            f"config.json states timm's architecture {name!r}, which is not supported; jaxfer reads {shown}"
        )
    usual = layout.timm.pool
    arguments = _mapping(config.get("model_args"), "model_args")
    odd = [f"{key}={value!r}" for key, value in arguments.items() if key not in ARGUMENTS and value is not None]
    pool = config.get("global_pool") or arguments.get("global_pool") or usual
    odd += [f"global_pool={pool!r}"] if pool != usual else []
    if odd:
        raise InputError(
            f"config.json: timm's {name} with {', '.join(odd)}, which is not supported; jaxfer reads it without"
        )
    converted = {"family": layout.family, "key_layout": layout.name, **layout.timm.stated(hit)}
    converted["input"] = _input(
        _mapping(config.get("pretrained_cfg", config), "pretrained_cfg")
    )  # top-level fields before timm 0.8
    names = config.get("label_names")
    names = dict(enumerate(names)) if isinstance(names, list | tuple) else names
    return converted | ({"id2label": names} if names else {})


def parted(tensors: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, str]]:
    """Splits each fused `attn.qkv` into `attn.q`, `attn.k` and `attn.v`: ({key: tensor}, {new key: fused key})."""
    parts, fused = {}, {}
    for key, tensor in tensors.items():
        hit = re.fullmatch(FUSED, key)
        if hit is None or tensor.ndim == 0 or tensor.shape[0] % 3:
            parts[key] = tensor
            continue
        for name, part in zip("qkv", np.split(tensor, 3), strict=True):
            parts[f"{hit[1]}.{name}.{hit[2]}"], fused[f"{hit[1]}.{name}.{hit[2]}"] = part, key
    return parts, fused


def _input(stated: Mapping[str, Any]) -> dict[str, Any]:
    size = stated.get("input_size", [3, 224, 224])
    sides = size[1:] if isinstance(size, list | tuple) and len(size) == 3 else size
    height, width = pair(sides, "config.json: input_size[1:]")
    share, mode = stated.get("crop_pct") or 0.875, stated.get("crop_mode") or "center"
    kernel = stated.get("interpolation") or "bicubic"
    square = height == width or share == 1
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
        raise InputError(f"config.json: expected crop_pct in (0, 1], found {share!r}")
    if mode not in ("center", "squash") or mode == "center" and not square or kernel not in INTERPOLATIONS:
        raise InputError(
            f"config.json: expected crop_mode center (of square images) or squash and an interpolation of "
            f"{', '.join(INTERPOLATIONS)}, found {mode!r} at {height} x {width} and {kernel!r}"
        )
    edges = (math.floor(height / share), math.floor(width / share))
    resize = [min(edges)] if mode == "center" else [] if edges == (height, width) else list(edges)
    statistics = {name: stated[name] for name in ("mean", "std") if stated.get(name)}
    default = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # timm's, whatever the model
    return {"size": [height, width], "interpolation": kernel, "resize": resize, **default, **statistics}


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"config.json: expected {name} to be an object, found {value!r}")
    return value or {}
