"""ViT in Google's own `.npz` (Steiner et al., 2021, AugReg, arXiv:2106.10270; also those of arXiv:2010.11929).

Its tensors lie as ours do: query [in, heads, d], out [heads, d, out], patches [h, w, in, out].
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.families._image import image_options, input_options, own_config, pair
from jaxfer.pretrained.layout import Key

ENCODER = "Transformer/"
POSITIONS = f"{ENCODER}posembed_input/pos_embedding"
NEEDED = ("embedding/kernel", POSITIONS, f"{ENCODER}encoderblock_0/MultiHeadDotProductAttention_1/query/kernel")
ATTENTION, MLP = "MultiHeadDotProductAttention_1", "MlpBlock_3"


class Config(TypedDict, total=False):
    """The field of a config.json that is read with these keys."""

    input: Mapping[str, Any]


def keys(port: Port) -> dict[str, Key]:
    """The key table.

    Raises:
      InputError: options for which Google's files have no place.
    """
    module = port.options
    if module.pool not in ("cls", "mean") or module.norm != "pre" or module.distillation != "none":
        raise InputError(
            f"Google's ViT is pre-norm and pools by 'cls' or 'mean', found norm={module.norm!r}, pool={module.pool!r} "
            f"and distillation={module.distillation!r}; use the layout 'hf'"
        )
    if not module.qkv_bias:
        raise InputError("Google's ViT has biases of query, key and value, found qkv_bias=False; use the layout 'hf'")
    table = {"params/stem/pos": Key(POSITIONS)}
    table |= {"params/stem/cls": Key("cls")} if module.pool == "cls" else {}

    def both(leaf: str, key: str, first: str = "kernel") -> None:
        table.update({f"params/{leaf}/{name}": Key(f"{key}/{name}") for name in (first, "bias")})

    both("stem/patch", "embedding")
    for i in range(module.layers):
        layer = f"{ENCODER}encoderblock_{i}"
        both(f"block_{i}/norm_1", f"{layer}/LayerNorm_0", "scale")
        both(f"block_{i}/norm_2", f"{layer}/LayerNorm_2", "scale")
        for name in ("query", "key", "value", "out"):
            both(f"block_{i}/attn/{name}", f"{layer}/{ATTENTION}/{name}")
        for j in (0, 1):
            both(f"block_{i}/mlp/fc{j + 1}", f"{layer}/{MLP}/Dense_{j}")
    both("head/norm", f"{ENCODER}encoder_norm", "scale")
    both("head/out", "head")
    return table


def options(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The port's options from tensor shapes; image size and statistics from `input` of a config.json, if any."""
    if missing := [key for key in NEEDED if key not in shapes]:
        raise InputError(f"expected a ViT under Google's names ({', '.join(NEEDED)}), found no {missing[0]}")
    if "pre_logits/kernel" in shapes:
        raise InputError(
            "the head reads a hidden layer pre_logits, which is not supported; remove pre_logits/... and head/... from "
            "the file, as fine-tuning does"
        )
    side, columns, channels, width = shapes["embedding/kernel"]
    if side != columns:
        raise InputError(f"expected square patches, found embedding/kernel {shapes['embedding/kernel']}")
    _, heads, _ = shapes[NEEDED[-1]]
    edge = math.isqrt(shapes[POSITIONS][1] - ("cls" in shapes)) * side
    size = pair(config["input"]["size"], "config.json: input.size") if "input" in config else (edge, edge)
    blocks = [int(hit[1]) for key in shapes if (hit := re.match(rf"{ENCODER}encoderblock_(\d+)/", key))]
    return {
        "patch": side,
        "width": width,
        "layers": 1 + max(blocks),
        "heads": heads,
        "mlp_width": shapes[f"{ENCODER}encoderblock_0/{MLP}/Dense_0/kernel"][1],
        "pool": "cls" if "cls" in shapes else "mean",
        "epsilon": 1e-6,
        **input_options(config),
        **image_options(preprocessor, channels, size, processor="ViT", fixed=True),
    }


def config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """A config.json for `options` to read back, with the labels; no library defines this format."""
    module = port.options
    if module.epsilon != 1e-6 or module.last > 1:
        raise InputError(
            f"Google's ViT has epsilon=1e-06 and reads one class token, found epsilon={module.epsilon} and "
            f"last={module.last}; use --format=hf"
        )
    return own_config(port, "vit", "augreg", labels)
