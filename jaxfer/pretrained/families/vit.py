"""ViT and DeiT in the layouts of Hugging Face and timm, and ViT in Google's `.npz` (`augreg`, of families/_augreg.py).

`hf` reads the bare models, `...ForImageClassification` and `...WithTeacher` under the Hub's names; transformers 5 uses
other names in memory, but saves the Hub's.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.heads import DENSE as DENSE_HEAD
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import asked, count
from jaxfer.pretrained.families import _augreg, _image
from jaxfer.pretrained.families._image import expect, image_options, image_processor, input_options, labelled, pair
from jaxfer.pretrained.layout import (
    CONV,
    DENSE,
    IDENTITY,
    Facts,
    Key,
    Layout,
    Shapes,
    Timm,
    Transform,
    heads_in,
    heads_out,
)

ARCHITECTURES = {
    "none": "ViTForImageClassification",
    "token": "DeiTForImageClassification",
    "head": "DeiTForImageClassificationWithTeacher",
}
TEACHER = "distillation_classifier.weight"


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    patch_size: _image.Side
    image_size: _image.Side
    num_channels: int
    qkv_bias: bool
    hidden_act: str
    layer_norm_eps: float
    hidden_dropout_prob: float


def _keys(port: Port) -> dict[str, Key]:
    module = port.options
    if module.pool == "mean" or module.norm != "pre":
        raise InputError(
            f"transformers has no ViT with pool={module.pool!r} and norm={module.norm!r}; "
            "its ViT is pre-norm and has a class token"
        )
    split, joined = heads_out(module.heads), heads_in(module.heads)
    prefix = _prefix(port)
    table: dict[str, Key] = {}

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"] = Key(f"{prefix}{key}.weight")
        table[f"params/{leaf}/bias"] = Key(f"{prefix}{key}.bias")

    def dense(leaf: str, key: str, kernel: Transform = DENSE, bias: Transform | None = IDENTITY) -> None:
        table[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel)
        if bias is not None:
            table[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias)

    dense("stem/patch", f"{prefix}embeddings.patch_embeddings.projection", CONV)
    table["params/stem/pos"] = Key(f"{prefix}embeddings.position_embeddings")
    for leaf, key in zip(module.special, ("cls_token", "distillation_token"), strict=False):
        table[f"params/stem/{leaf}"] = Key(f"{prefix}embeddings.{key}")
    for i in range(module.layers):
        block, layer = f"block_{i}", f"encoder.layer.{i}"
        norm(f"{block}/norm_1", f"{layer}.layernorm_before")
        norm(f"{block}/norm_2", f"{layer}.layernorm_after")
        for name in ("query", "key", "value"):
            key = f"{prefix}{layer}.attention.attention.{name}"
            dense(f"{block}/attn/{name}", key, split, split if module.qkv_bias else None)
        dense(f"{block}/attn/out", f"{prefix}{layer}.attention.output.dense", joined)
        dense(f"{block}/mlp/fc1", f"{prefix}{layer}.intermediate.dense")
        dense(f"{block}/mlp/fc2", f"{prefix}{layer}.output.dense")
    norm("head/norm", "layernorm")
    if module.pool == "pooler" and port.module.head != DENSE_HEAD:
        dense("head/pooler", f"{prefix}pooler.dense")
    if module.distillation == "head" and port.module.head != DENSE_HEAD:
        dense("head/out/cls", "cls_classifier")
        dense("head/out/dist", "distillation_classifier")
    else:
        dense("head/out", "classifier")
    return table


def _prefix(port: Port) -> str:
    return "vit." if port.options.distillation == "none" else "deit."


def _options(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The port's options; absent fields have `ViTConfig`'s defaults.

    The head reads the class token, as transformers' classifiers do; the pooler of a bare `ViTModel` is used only if
    the run sets `pool="pooler"`.
    """
    expect(config, hidden_act="gelu")
    patch = pair(config.get("patch_size", 16), "config.json: patch_size")
    if patch[0] != patch[1]:
        raise InputError(f"config.json: expected square patches, found patch_size={list(patch)}")
    size = pair(config.get("image_size", 224), "config.json: image_size")
    deit = config.get("model_type") == "deit"
    processor = "DeiT" if deit else "ViT"
    return {
        "patch": patch[0],
        "width": config.get("hidden_size", 768),
        "layers": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "mlp_width": config.get("intermediate_size", 3072),
        "distillation": "none" if not deit else "head" if TEACHER in shapes else "token",
        "qkv_bias": config.get("qkv_bias", True),
        "dropout": float(config.get("hidden_dropout_prob", 0.0)),
        "epsilon": float(config.get("layer_norm_eps", 1e-12)),
        **image_options(preprocessor, config.get("num_channels", 3), size, processor=processor, fixed=True),
    }


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    module, (height, width, channels) = port.options, port.encoding.size
    if module.pool != "cls" or module.last > 1:
        raise InputError(
            f"transformers' ViT classifiers read one class token, this model has pool={module.pool!r} and "
            f"last={module.last}; train it with --config.model.pool=cls and --config.model.last=1 to export it"
        )
    return {
        "architectures": [ARCHITECTURES[module.distillation]],
        "model_type": "vit" if module.distillation == "none" else "deit",
        "image_size": height if height == width else [height, width],
        "patch_size": module.patch,
        "num_channels": channels,
        "hidden_size": module.width,
        "num_hidden_layers": module.layers,
        "num_attention_heads": module.heads,
        "intermediate_size": module.mlp_width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": module.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": module.epsilon,
        "qkv_bias": module.qkv_bias,
        "encoder_stride": module.patch,
        **labelled(port, labels),
    }


# The Hub's names and timm's; timm's fused query, key and value are split before.
TIMM = (
    (r"(vit|deit)\.", ""),
    (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"encoder\.layer\.", "blocks."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.attention\.([qkv])\w+", r"attn.\1"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
    (r"layernorm", "norm"),
    (r"distillation_classifier", "head_dist"),
    (r"(cls_)?classifier", "head"),
)


def _timm_keys(port: Port) -> dict[str, Key]:
    if port.options.pool == "pooler":
        raise InputError("timm has no ViT with pool='pooler'; it feeds the class token to the head")
    table = {}
    for leaf, key in _keys(port).items():
        name = key.name
        for pattern, replacement in TIMM:
            name = re.sub(rf"(?:^|(?<=\.)){pattern}", replacement, name)
        table[leaf] = dataclasses.replace(key, name=name)
    return table


def _timm_options(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The port's options from tensor shapes; heads and preprocessing from timm's config.json."""
    needed = ("patch_embed.proj.weight", "pos_embed", "cls_token", "blocks.0.mlp.fc1.weight")
    if missing := [key for key in needed if key not in shapes]:
        raise InputError(f"expected a ViT under timm's names ({', '.join(needed)}), found no {missing[0]}")
    if "heads" not in config:
        raise InputError("no config.json, and shapes don't determine the heads; set config.model.heads")
    width, channels, patch, _ = shapes["patch_embed.proj.weight"]
    special = 1 + ("dist_token" in shapes)
    side = math.isqrt(shapes["pos_embed"][1] - special) * patch
    size = pair(config["input"]["size"], "config.json: input.size") if "input" in config else (side, side)
    return {
        "patch": patch,
        "width": width,
        "layers": 1 + max(int(hit[1]) for key in shapes if (hit := re.match(r"blocks\.(\d+)\.", key))),
        "heads": config["heads"],
        "mlp_width": shapes["blocks.0.mlp.fc1.weight"][0],
        "distillation": "none" if special == 1 else "head" if "head_dist.weight" in shapes else "token",
        "qkv_bias": "blocks.0.attn.q.bias" in shapes,
        "epsilon": 1e-6,
        **input_options(config),
        **image_options(preprocessor, channels, size, processor="ViT", fixed=True),
    }


def _timm_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    raise InputError("timm folders can be read but not written; use --format=hf")


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels, patch, _ = shapes["embeddings.patch_embeddings.projection.weight"]
    distilled = "embeddings.distillation_token" in shapes
    side = math.isqrt(shapes["embeddings.position_embeddings"][1] - 1 - distilled) * patch
    config = {
        "model_type": "deit" if distilled else "vit",
        "hidden_size": width,
        "patch_size": patch,
        "num_channels": channels,
        "image_size": side,
        "num_hidden_layers": count(shapes, r"encoder\.layer\.(\d+)\..*"),
        "intermediate_size": shapes["encoder.layer.0.intermediate.dense.weight"][0],
        "num_attention_heads": asked(options, "heads", f"a divisor of the width {width}"),
        "qkv_bias": "encoder.layer.0.attention.attention.query.bias" in shapes,
    }
    square = shapes["embeddings.position_embeddings"][1] - 1 - distilled == (side // patch) ** 2
    return config, {
        "heads": "num_attention_heads",
        "epsilon": "layer_norm_eps",
        **({} if square else {"image": "image_size"}),
    }


# timm's sizes by their heads, which tensor shapes do not reveal.
HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}

LAYOUTS = (
    Layout(
        name="hf",
        family="vit",
        model_types=("vit", "deit"),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=image_processor,
        entry="embeddings.patch_embeddings.projection.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"(cls_|distillation_)?classifier\..*", r"(vit|deit)\.pooler\..*"),
        # A classifier reads the class token, not the pooler; the others belong to masked image modelling.
        ignored=(r"(vit|deit)\.pooler\..*", r"(vit|deit)\.embeddings\.mask_token", r"decoder\..*"),
        prefixes=("vit.", "deit."),
        bare=_bare,
        in_memory=(
            (r"\.encoder\.layer\.", ".layers."),
            (r"\.attention\.attention\.(query|key|value)\b", lambda hit: f".attention.{hit[1][0]}_proj"),
            (r"\.attention\.output\.dense\b", ".attention.o_proj"),
            (r"\.intermediate\.dense\b", ".mlp.fc1"),
            (r"\.output\.dense\b", ".mlp.fc2"),
        ),
    ),
    Layout(
        name="timm",
        family="vit",
        model_types=(),
        keys=_timm_keys,
        options=_timm_options,
        config=_timm_config,
        preprocessor=image_processor,
        optional=(r"head(_dist)?\..*",),
        timm=Timm(
            names=rf"(vit|deit)_({'|'.join(HEADS)})(_distilled)?_patch\d+_\d+",
            shown="vit_SIZE_patchN_N and deit_SIZE[_distilled]_patchN_N",
            pool="token",
            stated=lambda hit: {"heads": HEADS[hit[2]]},
        ),
    ),
    Layout(
        name="augreg",
        family="vit",
        model_types=(),
        keys=_augreg.keys,
        options=_augreg.options,
        config=_augreg.config,
        preprocessor=image_processor,
        facts=_augreg.Config,
        processor=_image.Preprocessor,
        optional=(r"head/.*",),
    ),
)
