"""The image encoder of SigLIP and SigLIP 2 in the layout of Hugging Face: `SiglipVisionModel`, its classifier, and
whole models, whose text encoder is left out; the ledger counts its keys as unused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.heads import DENSE as DENSE_HEAD
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import asked, count
from jaxfer.pretrained.families import _image, _towers
from jaxfer.pretrained.families._image import BICUBIC, image_options, image_processor, labelled, pair
from jaxfer.pretrained.layout import Beside, Facts, Key, Layout, Shapes

CLASSIFIER = "classifier.weight"
# `SiglipImageProcessor`'s values for absent fields.
PROCESSOR = {
    "size": {"height": 224, "width": 224},
    "resample": BICUBIC,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


class Config(TypedDict, total=False):
    """The fields of config.json that are read, of a whole model or of its image encoder."""

    vision_config: dict[str, Any] | None
    vision_config_dict: dict[str, Any] | None
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    patch_size: _image.Side
    image_size: _image.Side
    num_channels: int
    hidden_act: str
    layer_norm_eps: float
    attention_dropout: float
    vision_use_head: bool


def _keys(port: Port) -> dict[str, Key]:
    options, table, dense_head = port.options, _towers.Table(), port.module.head == DENSE_HEAD
    table.patches("", bias=True)
    table.blocks("", "vision_model", options.layers, options.heads)
    table.norm("head/norm", "vision_model.post_layernorm")
    if options.pool == "map" and not dense_head:
        table.map_pool("head/map", options.heads)
    if port.outputs:
        table.dense("head/out", "classifier")
    return dict(table)


def vision_options(
    stated: Mapping[str, Any], preprocessor: Mapping[str, Any], processor: Mapping[str, Any] = PROCESSOR
) -> dict[str, Any]:
    """Options of the tower but for its pool; absent fields have `SiglipVisionConfig`'s defaults."""
    patch = pair(stated.get("patch_size", 16), "config.json: patch_size")
    if patch[0] != patch[1]:
        raise InputError(f"config.json: expected square patches, found patch_size={list(patch)}")
    size, channels = pair(stated.get("image_size", 224), "config.json: image_size"), stated.get("num_channels", 3)
    own = dict(processor, size=list(size))
    return {
        "patch": patch[0],
        "width": stated.get("hidden_size", 768),
        "layers": stated.get("num_hidden_layers", 12),
        "heads": stated.get("num_attention_heads", 12),
        "mlp_width": stated.get("intermediate_size", 3072),
        "activation": _towers.activation(stated, "gelu_pytorch_tanh"),
        "attention_dropout": float(stated.get("attention_dropout", 0.0)),
        "epsilon": float(stated.get("layer_norm_eps", 1e-6)),
        **image_options(preprocessor, channels, size, processor="Siglip", fixed=True, own=own),
    }


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; a checkpoint with a classifier, or without its attention pooling, takes the patches' mean."""
    stated = _towers.section(config, "vision")
    mean = CLASSIFIER in shapes or not stated.get("vision_use_head", True)
    return {**vision_options(stated, preprocessor), "pool": "mean" if mean else "map"}


def vision_config(options: Any, prefix: str = "") -> dict[str, Any]:
    """The section of config.json, of options whose names begin with a prefix but for the patch's."""
    height, width, channels = options.image
    if height != width:
        raise InputError(f"transformers' SigLIP takes square images, this model takes {height} x {width}")
    fixed = {"image_size": height, "patch_size": options.patch, "num_channels": channels}
    return {"model_type": "siglip_vision_model", **fixed, **_towers.tower_fields(options, prefix)}


def _config(port: Port, given: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    options = port.options
    if port.outputs and (options.pool != "mean" or options.normalize):
        raise InputError(
            "transformers' SigLIP classifier reads the mean of the patches, this model has "
            f"pool={options.pool!r}{', normalize=True' * options.normalize}; train it with --config.model.pool=mean to "
            "export it"
        )
    vision = vision_config(options)
    if not port.outputs:
        use = {"vision_use_head": options.pool == "map"}
        return {"architectures": ["SiglipVisionModel"], **vision, **use, "dtype": "float32"}
    whole = {"architectures": ["SiglipForImageClassification"], "model_type": "siglip"}
    return {**whole, "vision_config": {**vision, "vision_use_head": False}, **labelled(port, labels)}


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels, patch, _ = shapes["embeddings.patch_embedding.weight"]
    config = {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "patch_size": patch,
        "num_channels": channels,
        "image_size": math.isqrt(shapes["embeddings.position_embedding.weight"][0]) * patch,
        "num_hidden_layers": count(shapes, r"encoder\.layers\.(\d+)\..*"),
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "vision_use_head": "head.probe" in shapes,
        "num_attention_heads": asked(options, "heads", f"a divisor of the width {width}"),
    }
    return config, {"heads": "num_attention_heads", "activation": "hidden_act", "epsilon": "layer_norm_eps"}


LAYOUTS = (
    Layout(
        name="hf",
        family="siglip_vision",
        model_types=("siglip", "siglip_vision_model"),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=image_processor,
        entry="embeddings.patch_embedding.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        ignored=(r"vision_model\.head\..*", r"text_model\..*", r"logit_(scale|bias)", _towers.LISTED),
        prefixes=("vision_model.",),
        bare=_bare,
        beside=Beside(family="siglip_text", pool="map"),
        without_outputs=("embedding",),
    ),
)
