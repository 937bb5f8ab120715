"""DINOv3's vision transformers in Hugging Face's layout.

transformers has the backbone alone: an export keeps a classifier beside it, which jaxfer reads and `DINOv3ViTModel`
leaves out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.chain import IMAGENET_MEAN, IMAGENET_STD
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import asked, count
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import BILINEAR, expect, image_options, image_processor, labelled, pair
from jaxfer.pretrained.layout import CONV, DENSE, Facts, Key, Layout, Shapes, Transform, heads_in, heads_out

INSIDE = "model."  # where transformers 5 has the blocks
# Defaults of `DINOv3ViTImageProcessor`.
PROCESSOR = {
    "size": [224, 224],
    "resample": BILINEAR,
    "image_mean": list(IMAGENET_MEAN),
    "image_std": list(IMAGENET_STD),
}


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: _image.Side
    image_size: _image.Side
    num_channels: int
    num_register_tokens: int
    hidden_act: str
    layer_norm_eps: float
    rope_theta: float
    query_bias: bool
    key_bias: bool
    value_bias: bool
    proj_bias: bool
    mlp_bias: bool
    use_gated_mlp: bool
    layerscale_value: float


def _keys(port: Port) -> dict[str, Key]:
    options = port.options
    split, joined = heads_out(options.heads), heads_in(options.heads)
    table: dict[str, Key] = {"params/stem/cls": Key("embeddings.cls_token")}
    if options.registers:
        table["params/stem/registers"] = Key("embeddings.register_tokens")

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"], table[f"params/{leaf}/bias"] = Key(f"{key}.weight"), Key(f"{key}.bias")

    def dense(leaf: str, key: str, kernel: Transform = DENSE, bias: Transform | None = None) -> None:
        table[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel)
        table[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias) if bias else Key(f"{key}.bias")

    dense("stem/patch", "embeddings.patch_embeddings", CONV)
    for i in range(options.layers):
        block, layer = f"block_{i}", f"layer.{i}"
        for branch in "12":
            norm(f"{block}/norm_{branch}", f"{layer}.norm{branch}")
            table[f"params/{block}/scale_{branch}"] = Key(f"{layer}.layer_scale{branch}.lambda1")
        for name in ("query", "key", "value"):
            dense(f"{block}/attn/{name}", f"{layer}.attention.{name[0]}_proj", split, split)
            if name == "key" or not options.qkv_bias:
                del table[f"params/{block}/attn/{name}/bias"]
        dense(f"{block}/attn/out", f"{layer}.attention.o_proj", joined)
        dense(f"{block}/mlp/fc1", f"{layer}.mlp.{'gate' if options.gated else 'up'}_proj")
        if options.gated:
            dense(f"{block}/mlp/gate", f"{layer}.mlp.up_proj")
        dense(f"{block}/mlp/fc2", f"{layer}.mlp.down_proj")
    norm("head/norm", "norm")
    dense("head/out", "classifier")
    return {leaf: _either(key) for leaf, key in table.items()}


def _either(key: Key) -> Key:
    """The Hub's name of a block, and the one that transformers 5 writes."""
    return dataclasses.replace(key, others=(f"{INSIDE}{key.name}",)) if key.name.startswith("layer.") else key


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; absent fields have `DINOv3ViTConfig`'s defaults.

    The processor says at which size images are read, whatever `image_size` is: positions are shares of an image. The
    augmentation of positions in DINOv3's own training (`pos_embed_rescale`, ...) is left out.
    """
    expect(config, key_bias=False, proj_bias=True, mlp_bias=True)
    query, value = config.get("query_bias", True), config.get("value_bias", True)
    if query != value:
        raise InputError(f"config.json: expected query_bias and value_bias to be the same, found {query} and {value}")
    patch = pair(config.get("patch_size", 16), "config.json: patch_size")
    if patch[0] != patch[1]:
        raise InputError(f"config.json: expected square patches, found patch_size={list(patch)}")
    size = pair(config.get("image_size", 224), "config.json: image_size")
    kind = dict(processor="DINOv3ViT", fixed=False, own=PROCESSOR)
    return {
        "patch": patch[0],
        "width": config.get("hidden_size", 384),
        "layers": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 6),
        "mlp_width": config.get("intermediate_size", 1536),
        "gated": config.get("use_gated_mlp", False),
        "activation": config.get("hidden_act", "gelu"),
        "registers": config.get("num_register_tokens", 0),
        "theta": float(config.get("rope_theta", 100.0)),
        "qkv_bias": query,
        "layer_scale_init": float(config.get("layerscale_value", 1.0)),
        "epsilon": float(config.get("layer_norm_eps", 1e-5)),
        **image_options(preprocessor, config.get("num_channels", 3), size, **kind),
    }


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    model, (height, width, channels) = port.options, port.encoding.size
    if model.pool != "cls" or model.last > 1:
        raise InputError(
            f"transformers' DINOv3 gives the last class token as its features, this model has pool={model.pool!r} and "
            f"last={model.last}; train it with pool='cls' and last=1 to export it"
        )
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "image_size": height if height == width else [height, width],
        "patch_size": model.patch,
        "num_channels": channels,
        "hidden_size": model.width,
        "intermediate_size": model.mlp_width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_register_tokens": model.registers,
        "use_gated_mlp": model.gated,
        "hidden_act": model.activation,
        "layer_norm_eps": model.epsilon,
        "rope_theta": model.theta,
        "query_bias": model.qkv_bias,
        "key_bias": False,
        "value_bias": model.qkv_bias,
        "proj_bias": True,
        "mlp_bias": True,
        "layerscale_value": model.layer_scale_init,
        "attention_dropout": 0.0,
        **labelled(port, labels),
    }


def _constants(port: Port) -> dict[str, np.ndarray]:
    """What no pass reads and transformers expects: the token of masked patches, registers where there are none."""
    width, counts = port.options.width, {"mask_token": 1} | ({} if port.options.registers else {"register_tokens": 0})
    return {f"embeddings.{name}": np.zeros((1, count, width), np.float32) for name, count in counts.items()}


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    shapes = {key.removeprefix(INSIDE): shape for key, shape in shapes.items()}
    width, channels, patch, _ = shapes["embeddings.patch_embeddings.weight"]
    config = {
        "model_type": "dinov3_vit",
        "hidden_size": width,
        "patch_size": patch,
        "num_channels": channels,
        "num_hidden_layers": count(shapes, r"layer\.(\d+)\..*"),
        "num_attention_heads": asked(options, "heads", f"a divisor of the width {width}"),
        "intermediate_size": shapes["layer.0.mlp.up_proj.weight"][0],
        "use_gated_mlp": "layer.0.mlp.gate_proj.weight" in shapes,
        "hidden_act": "silu" if "layer.0.mlp.gate_proj.weight" in shapes else "gelu",  # as all published ones have it
        "num_register_tokens": shapes["embeddings.register_tokens"][1],
        "query_bias": "layer.0.attention.q_proj.bias" in shapes,
        "value_bias": "layer.0.attention.v_proj.bias" in shapes,
    }
    left = {"heads": "num_attention_heads", "epsilon": "layer_norm_eps", "layer_scale_init": "layerscale_value"}
    return config, {**left, "theta": "rope_theta", "activation": "hidden_act", "image": "image_size"}


LAYOUTS = (
    Layout(
        name="hf",
        family="dinov3",
        model_types=("dinov3_vit",),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=image_processor,
        entry="embeddings.patch_embeddings.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        ignored=(r"embeddings\.mask_token",),
        constants=_constants,
        bare=_bare,
        in_memory=((r"^(\.?)layer\.", r"\1model.layer."),),
    ),
)
