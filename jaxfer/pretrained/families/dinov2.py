"""DINOv2, with and without registers, in the layout of Hugging Face.

The Hub's names are read and written; transformers 5 has other names in memory, and splits the gated MLP's first layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import asked, count
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import BICUBIC, expect, image_options, image_processor, labelled, pair
from jaxfer.pretrained.layout import CONV, DENSE, Facts, Key, Layout, Shapes, Transform, heads_in, heads_out

NAMES = {"dinov2": "Dinov2ForImageClassification", "dinov2_with_registers": "Dinov2WithRegistersForImageClassification"}
CLIP = {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)}
# Defaults of `BitImageProcessor`; published files state ImageNet's statistics.
BIT = {"size": {"shortest_edge": 224}, "resample": BICUBIC, "do_center_crop": True, "crop_size": 224, **CLIP}
JOINED = heads_out(2)  # the gated MLP's first layer: [2 * mlp_width, width] <-> [width, 2, mlp_width]


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    mlp_ratio: float
    patch_size: _image.Side
    image_size: _image.Side
    num_channels: int
    num_register_tokens: int
    qkv_bias: bool
    hidden_act: str
    layer_norm_eps: float
    layerscale_value: float
    use_swiglu_ffn: bool
    hidden_dropout_prob: float


def _model_type(port: Port) -> str:
    return "dinov2_with_registers" if port.options.registers else "dinov2"


def _keys(port: Port) -> dict[str, Key]:
    options, prefix = port.options, f"{_model_type(port)}."
    split, joined = heads_out(options.heads), heads_in(options.heads)
    table: dict[str, Key] = {
        "params/stem/cls": Key(f"{prefix}embeddings.cls_token"),
        "params/stem/pos": Key(f"{prefix}embeddings.position_embeddings"),
    }
    if options.registers:
        table["params/stem/registers"] = Key(f"{prefix}embeddings.register_tokens")

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"], table[f"params/{leaf}/bias"] = Key(f"{key}.weight"), Key(f"{key}.bias")

    def dense(leaf: str, key: str, kernel: Transform = DENSE, bias: Transform | None = None) -> None:
        table[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel)
        table[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias) if bias else Key(f"{key}.bias")

    dense("stem/patch", f"{prefix}embeddings.patch_embeddings.projection", CONV)
    for i in range(options.layers):
        block, layer = f"block_{i}", f"{prefix}encoder.layer.{i}"
        for branch in "12":
            norm(f"{block}/norm_{branch}", f"{layer}.norm{branch}")
            table[f"params/{block}/scale_{branch}"] = Key(f"{layer}.layer_scale{branch}.lambda1")
        for name in ("query", "key", "value"):
            dense(f"{block}/attn/{name}", f"{layer}.attention.attention.{name}", split, split)
            if not options.qkv_bias:
                del table[f"params/{block}/attn/{name}/bias"]
        dense(f"{block}/attn/out", f"{layer}.attention.output.dense", joined)
        if options.gated:
            dense(f"{block}/mlp/fc1", f"{layer}.mlp.weights_in", JOINED, JOINED)
            dense(f"{block}/mlp/fc2", f"{layer}.mlp.weights_out")
        else:
            dense(f"{block}/mlp/fc1", f"{layer}.mlp.fc1")
            dense(f"{block}/mlp/fc2", f"{layer}.mlp.fc2")
    norm("head/norm", f"{prefix}layernorm")
    dense("head/out", "classifier")
    return table


def _mlp_width(width: int, ratio: float, gated: bool) -> int:
    """transformers' rule: a gated MLP has two thirds of the channels, rounded up to a multiple of 8."""
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


def _options(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The port's options; absent fields have the defaults of `Dinov2Config` and `Dinov2WithRegistersConfig`.

    `image_size` is that of the positions; the processor says at which size images are read.
    """
    expect(config, hidden_act="gelu")
    several = config.get("model_type") == "dinov2_with_registers"
    registers = config.get("num_register_tokens", 4) if several else 0
    if several and registers < 1:
        raise InputError("config.json: num_register_tokens=0; set model_type to dinov2, without registers")
    patch = pair(config.get("patch_size", 16 if several else 14), "config.json: patch_size")
    size = pair(config.get("image_size", 224), "config.json: image_size")
    if patch[0] != patch[1] or size[0] != size[1]:
        raise InputError(
            f"config.json: expected square patches and positions, found patch_size={list(patch)} and "
            f"image_size={list(size)}"
        )
    width, gated = config.get("hidden_size", 768), config.get("use_swiglu_ffn", False)
    positions = (size[0] // patch[0],) * 2
    return {
        "patch": patch[0],
        "width": width,
        "layers": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "mlp_width": _mlp_width(width, config.get("mlp_ratio", 4), gated),
        "gated": gated,
        "registers": registers,
        "positions": positions,
        "antialias": several,
        "qkv_bias": config.get("qkv_bias", True),
        "dropout": float(config.get("hidden_dropout_prob", 0.0)),
        "layer_scale_init": float(config.get("layerscale_value", 1.0)),
        "epsilon": float(config.get("layer_norm_eps", 1e-6)),
        **image_options(preprocessor, config.get("num_channels", 3), size, processor="Bit", fixed=False, own=BIT),
    }


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    model = port.options
    if model.pool != "cls+mean" or model.last > 1:
        raise InputError(
            f"transformers' DINOv2 classifiers read the last class token and the mean of the patches, this model has "
            f"pool={model.pool!r} and last={model.last}; train it with pool='cls+mean' and last=1 to export it"
        )
    rows, columns = model.positions
    if rows != columns or model.antialias != bool(model.registers):
        raise InputError(
            f"transformers' DINOv2 has square positions, and antialias with registers only, this model has "
            f"positions={model.positions}, antialias={model.antialias} and registers={model.registers}"
        )
    ratios = (ratio for ratio in range(1, 65) if _mlp_width(model.width, ratio, model.gated) == model.mlp_width)
    if (ratio := next(ratios, None)) is None:
        raise InputError(
            f"transformers' DINOv2 has an MLP of a whole multiple of the width (two thirds of it where gated), found "
            f"mlp_width={model.mlp_width} and width={model.width}"
        )
    kind = _model_type(port)
    return {
        "architectures": [NAMES[kind]],
        "model_type": kind,
        "image_size": rows * model.patch,
        "patch_size": model.patch,
        "num_channels": port.encoding.size[2],
        "hidden_size": model.width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "mlp_ratio": ratio,
        "use_swiglu_ffn": model.gated,
        "hidden_act": "gelu",
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": model.epsilon,
        "layerscale_value": model.layer_scale_init,
        "qkv_bias": model.qkv_bias,
        **({"num_register_tokens": model.registers} if model.registers else {}),
        **labelled(port, labels),
    }


def _constants(port: Port) -> dict[str, np.ndarray]:
    """The token of masked patches, which no classifier reads and transformers expects."""
    return {f"{_model_type(port)}.embeddings.mask_token": np.zeros((1, port.options.width), np.float32)}


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels, patch, _ = shapes["embeddings.patch_embeddings.projection.weight"]
    gated = "encoder.layer.0.mlp.weights_in.weight" in shapes
    registers = shapes.get("embeddings.register_tokens", (1, 0))[1]
    hidden = shapes[f"encoder.layer.0.mlp.{'weights_out' if gated else 'fc2'}.weight"][1]
    ratio = next((n for n in range(1, 65) if _mlp_width(width, n, gated) == hidden), hidden / width)
    config = {
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": width,
        "patch_size": patch,
        "num_channels": channels,
        "image_size": round((shapes["embeddings.position_embeddings"][1] - 1) ** 0.5) * patch,
        "num_hidden_layers": count(shapes, r"encoder\.layer\.(\d+)\..*"),
        "mlp_ratio": ratio,
        "use_swiglu_ffn": gated,
        "num_attention_heads": asked(options, "heads", f"a divisor of the width {width}"),
        "qkv_bias": "encoder.layer.0.attention.attention.query.bias" in shapes,
        **({"num_register_tokens": registers} if registers else {}),
    }
    return config, {"heads": "num_attention_heads", "epsilon": "layer_norm_eps", "layer_scale_init": "layerscale_value"}


def _split(hit: Any) -> str:
    raise InputError("peft sees two layers where this model's gated MLP has one; use the merged model (--format=hf)")


LAYOUTS = (
    Layout(
        name="hf",
        family="dinov2",
        model_types=tuple(NAMES),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=image_processor,
        entry="embeddings.patch_embeddings.projection.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        ignored=(r"(dinov2|dinov2_with_registers)\.embeddings\.mask_token",),
        prefixes=tuple(f"{name}." for name in NAMES),
        constants=_constants,
        bare=_bare,
        in_memory=(
            (r"\.attention\.attention\.(query|key|value)\b", lambda hit: f".attention.{hit[1][0]}_proj"),
            (r"\.attention\.output\.dense\b", ".attention.o_proj"),
            (r"\.mlp\.weights_in\b", _split),
        ),
    ),
)
