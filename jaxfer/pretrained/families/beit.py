"""BEiT and BEiT v2 in Hugging Face's layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import asked, count
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import BICUBIC, expect, image_options, image_processor, labelled, pair
from jaxfer.pretrained.layout import CONV, DENSE, Facts, Key, Layout, Shapes, Transform, heads_in, heads_out

PREFIX = "beit."
TABLE = "relative_position_bias.relative_position_bias_table"
PROCESSOR = {"size": [224, 224], "resample": BICUBIC, "crop_size": [224, 224]}  # defaults of `BeitImageProcessor`


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    image_size: _image.Side
    patch_size: _image.Side
    num_channels: int
    use_absolute_position_embeddings: bool
    use_relative_position_bias: bool
    use_shared_relative_position_bias: bool
    use_mean_pooling: bool
    layer_scale_init_value: float
    drop_path_rate: float
    hidden_dropout_prob: float
    hidden_act: str
    layer_norm_eps: float


def _keys(port: Port) -> dict[str, Key]:
    options = port.options
    if not options.qkv_bias:
        raise InputError("transformers' BEiT has biases of query and value, this model has qkv_bias=False")
    split, joined = heads_out(options.heads), heads_in(options.heads)
    table: dict[str, Key] = {"params/stem/cls": Key(f"{PREFIX}embeddings.cls_token")}
    if options.relative == "shared":
        table["params/stem/relative"] = Key(f"{PREFIX}encoder.{TABLE}")

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"], table[f"params/{leaf}/bias"] = Key(f"{key}.weight"), Key(f"{key}.bias")

    def dense(leaf: str, key: str, kernel: Transform = DENSE, bias: Transform | None = None) -> None:
        table[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel)
        table[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias) if bias else Key(f"{key}.bias")

    dense("stem/patch", f"{PREFIX}embeddings.patch_embeddings.projection", CONV)
    for i in range(options.layers):
        block, layer = f"block_{i}", f"{PREFIX}encoder.layer.{i}"
        for branch, place in (("1", "before"), ("2", "after")):
            norm(f"{block}/norm_{branch}", f"{layer}.layernorm_{place}")
            table[f"params/{block}/scale_{branch}"] = Key(f"{layer}.lambda_{branch}")
        if options.relative == "layer":
            table[f"params/{block}/relative"] = Key(f"{layer}.attention.attention.{TABLE}")
        for name in ("query", "key", "value"):
            dense(f"{block}/attn/{name}", f"{layer}.attention.attention.{name}", split, split)
        del table[f"params/{block}/attn/key/bias"]
        dense(f"{block}/attn/out", f"{layer}.attention.output.dense", joined)
        dense(f"{block}/mlp/fc1", f"{layer}.intermediate.dense")
        dense(f"{block}/mlp/fc2", f"{layer}.output.dense")
    norm("head/norm", f"{PREFIX}pooler.layernorm" if options.pool == "mean" else f"{PREFIX}layernorm")
    dense("head/out", "classifier")
    return table


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; absent fields have `BeitConfig`'s defaults."""
    expect(config, hidden_act="gelu", use_absolute_position_embeddings=False)
    own, shared = (config.get(f"use_{name}relative_position_bias", False) for name in ("", "shared_"))
    if own and shared:
        raise InputError("config.json: a BEiT has biases of its blocks or shared ones, both are set; correct it")
    patch = pair(config.get("patch_size", 16), "config.json: patch_size")
    size = pair(config.get("image_size", 224), "config.json: image_size")
    if patch[0] != patch[1] or size[0] != size[1]:
        raise InputError(
            f"config.json: expected square patches and images, found patch_size={list(patch)} and "
            f"image_size={list(size)}"
        )
    start = config.get("layer_scale_init_value", 0.1)
    if not start > 0:
        raise InputError(f"config.json: layer_scale_init_value is {start!r}; jaxfer reads a BEiT with layer scales")
    return {
        "patch": patch[0],
        "width": config.get("hidden_size", 768),
        "layers": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "mlp_width": config.get("intermediate_size", 3072),
        "relative": "layer" if own else "shared" if shared else "none",
        "pool": "mean" if config.get("use_mean_pooling", True) else "cls",
        "layer_scale_init": float(start),
        "dropout": float(config.get("hidden_dropout_prob", 0.0)),
        "stochastic_depth": float(config.get("drop_path_rate", 0.1)),
        "epsilon": float(config.get("layer_norm_eps", 1e-12)),
        **image_options(preprocessor, config.get("num_channels", 3), size, processor="Beit", fixed=True, own=PROCESSOR),
    }


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    model, (height, width, channels) = port.options, port.encoding.size
    if height != width or model.last > 1:
        raise InputError(
            f"transformers' BEiT has square images and reads the last block alone, this model has image={model.image} "
            f"and last={model.last}; it can't be exported"
        )
    return {
        "architectures": ["BeitForImageClassification"],
        "model_type": "beit",
        "image_size": height,
        "patch_size": model.patch,
        "num_channels": channels,
        "hidden_size": model.width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.mlp_width,
        "hidden_act": "gelu",
        "use_mask_token": False,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": model.relative == "layer",
        "use_shared_relative_position_bias": model.relative == "shared",
        "use_mean_pooling": model.pool == "mean",
        "layer_scale_init_value": model.layer_scale_init,
        "drop_path_rate": model.stochastic_depth,
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": model.epsilon,
        **labelled(port, labels),
    }


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels, patch, _ = shapes["embeddings.patch_embeddings.projection.weight"]
    first = "encoder.layer.0"
    own, shared = (shapes.get(key) for key in (f"{first}.attention.attention.{TABLE}", f"encoder.{TABLE}"))
    table = own or shared
    known = {"heads": table[1]} if table else options
    config = {
        "model_type": "beit",
        "hidden_size": width,
        "patch_size": patch,
        "num_channels": channels,
        "num_hidden_layers": count(shapes, r"encoder\.layer\.(\d+)\..*"),
        "num_attention_heads": asked(known, "heads", f"a divisor of the width {width}"),
        "intermediate_size": shapes[f"{first}.intermediate.dense.weight"][0],
        "use_relative_position_bias": own is not None,
        "use_shared_relative_position_bias": shared is not None,
        "use_mean_pooling": "pooler.layernorm.weight" in shapes,
        **({"image_size": (math.isqrt(table[0] - 3) + 1) // 2 * patch} if table else {}),
    }
    left = {"epsilon": "layer_norm_eps", "layer_scale_init": "layer_scale_init_value"}
    return config, {**left, **({} if table else {"heads": "num_attention_heads", "image": "image_size"})}


LAYOUTS = (
    Layout(
        name="hf",
        family="beit",
        model_types=("beit",),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=image_processor,
        entry="embeddings.patch_embeddings.projection.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        # The last two belong to masked image modelling.
        ignored=(r".*\.relative_position_index", r"beit\.embeddings\.mask_token", r"(layernorm|lm_head)\..*"),
        prefixes=(PREFIX,),
        bare=_bare,
        in_memory=(
            (rf"\.encoder\.layer\.(\d+)\.attention\.attention\.{TABLE}", rf".layers.\1.{TABLE}"),
            (rf"\.encoder\.{TABLE}", ".shared_position_bias.relative_position_bias_table"),
            (r"\.encoder\.layer\.", ".layers."),
            (r"\.attention\.attention\.(query|key|value)\b", lambda hit: f".attention.{hit[1][0]}_proj"),
            (r"\.attention\.output\.dense\b", ".attention.o_proj"),
            (r"\.intermediate\.dense\b", ".mlp.fc1"),
            (r"\.output\.dense\b", ".mlp.fc2"),
        ),
    ),
)
