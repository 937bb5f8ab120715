"""The image encoder of CLIP in the layout of Hugging Face: whole models, `CLIPVisionModel` and its classifier.

Of a whole model the text encoder is left out; the ledger counts its keys as unused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.heads import DENSE as DENSE_HEAD
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import asked, count
from jaxfer.pretrained.families import _image, _towers
from jaxfer.pretrained.families._image import BICUBIC, image_options, image_processor, labelled, pair
from jaxfer.pretrained.layout import (
    Beside,
    Facts,
    Key,
    Layout,
    Shapes,
)

CLASSIFIER, PROJECTION = "classifier.weight", "visual_projection.weight"
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
# `CLIPImageProcessor`'s values for absent fields.
PROCESSOR = {
    "size": {"shortest_edge": 224},
    "resample": BICUBIC,
    "do_center_crop": True,
    "crop_size": 224,
    "image_mean": MEAN,
    "image_std": STD,
}


class Config(TypedDict, total=False):
    """The fields of config.json that are read, of a whole model or of its image encoder."""

    vision_config: dict[str, Any] | None
    vision_config_dict: dict[str, Any] | None
    projection_dim: int
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


def _keys(port: Port) -> dict[str, Key]:
    options, table, dense_head = port.options, _towers.Table(), port.module.head == DENSE_HEAD
    table.clip_image("", options.layers, options.heads)
    if dense_head or options.pool != "mean":
        table.norm("head/norm", "vision_model.post_layernorm")
    if options.pool == "projection" and not dense_head:
        table.dense("head/projection", "visual_projection", bias=None)
    if port.outputs:
        table.dense("head/out", "classifier")
    return dict(table)


def vision_options(stated: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the tower but for its pool; absent fields have `CLIPVisionConfig`'s defaults."""
    patch = pair(stated.get("patch_size", 32), "config.json: patch_size")
    if patch[0] != patch[1]:
        raise InputError(f"config.json: expected square patches, found patch_size={list(patch)}")
    size, channels = pair(stated.get("image_size", 224), "config.json: image_size"), stated.get("num_channels", 3)
    own = dict(PROCESSOR, crop_size=list(size))
    return {
        "patch": patch[0],
        "width": stated.get("hidden_size", 768),
        "layers": stated.get("num_hidden_layers", 12),
        "heads": stated.get("num_attention_heads", 12),
        "mlp_width": stated.get("intermediate_size", 3072),
        "activation": _towers.activation(stated, "quick_gelu"),
        "attention_dropout": float(stated.get("attention_dropout", 0.0)),
        "epsilon": float(stated.get("layer_norm_eps", 1e-5)),
        **image_options(preprocessor, channels, size, processor="CLIP", fixed=True, own=own),
    }


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; absent fields have `CLIPVisionConfig`'s defaults.

    A checkpoint with a classifier pools as `CLIPForImageClassification` does, any other one the class token.
    """
    return {
        **vision_options(_towers.section(config, "vision"), preprocessor),
        "pool": "mean" if CLASSIFIER in shapes else "cls",
        "projection": shapes[PROJECTION][0] if PROJECTION in shapes else config.get("projection_dim", 512),
    }


def vision_config(options: Any, prefix: str = "") -> dict[str, Any]:
    """The section of config.json; `prefix` precedes the names of the tower's options."""
    height, width, channels = options.image
    if height != width:
        raise InputError(f"transformers' CLIP takes square images, this model takes {height} x {width}")
    fixed = {"image_size": height, "patch_size": options.patch, "num_channels": channels}
    tower = _towers.tower_fields(options, prefix)
    return {"model_type": "clip_vision_model", **fixed, **tower, "projection_dim": options.projection}


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    module = port.options
    if module.pool != "mean" or module.normalize:
        raise InputError(
            f"transformers' CLIP classifier reads the mean of the patches, this model has pool={module.pool!r}"
            f"{', normalize=True' * module.normalize}; train it with --config.model.pool=mean to export it"
        )
    whole = {"architectures": ["CLIPForImageClassification"], "model_type": "clip"}
    return {
        **whole,
        "projection_dim": module.projection,
        "vision_config": vision_config(module),
        **labelled(port, labels),
    }


def _constants(port: Port) -> dict[str, np.ndarray]:
    """The final norm, which transformers' classifier has and does not read."""
    if port.options.pool != "mean" or port.module.head == DENSE_HEAD:
        return {}
    width = port.options.width
    return {
        "vision_model.post_layernorm.weight": np.ones(width, np.float32),
        "vision_model.post_layernorm.bias": np.zeros(width, np.float32),
    }


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels, patch, _ = shapes["embeddings.patch_embedding.weight"]
    config = {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "patch_size": patch,
        "num_channels": channels,
        "image_size": math.isqrt(shapes["embeddings.position_embedding.weight"][0] - 1) * patch,
        "num_hidden_layers": count(shapes, r"encoder\.layers\.(\d+)\..*"),
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "num_attention_heads": asked(options, "heads", f"a divisor of the width {width}; published ones have width/64"),
    }
    return config, {"heads": "num_attention_heads", "activation": "hidden_act", "epsilon": "layer_norm_eps"}


LAYOUTS = (
    Layout(
        name="hf",
        family="clip_vision",
        model_types=("clip", "clip_vision_model"),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=image_processor,
        entry="embeddings.patch_embedding.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        # What another pool reads, and the text encoder.
        ignored=(
            r"visual_projection\.weight",
            r"vision_model\.post_layernorm\..*",
            r"text_model\..*",
            r"text_projection\.weight",
            r"logit_scale",
            r"(.*\.)?position_ids",
        ),
        prefixes=("vision_model.",),
        constants=_constants,
        bare=_bare,
        beside=Beside(family="clip_text", pool="projection"),
    ),
)
