"""Infer the model from tensor shapes where config.json is absent or lacks a `model_type`.

Fields of an existing config.json take precedence; the config must set whatever remains open.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxfer.errors import InputError
from jaxfer.pretrained.layout import Layout

Shapes = Mapping[str, tuple[int, ...]]
Facts = tuple[dict[str, Any], dict[str, str]]


def facts(
    layout: Layout, shapes: Shapes, options: Mapping[str, Any], stated: Mapping[str, Any]
) -> tuple[dict[str, Any], set[str]]:
    """(fields of config.json, port options that neither shapes nor the file determine).

    Args:
      layout: the checkpoint's naming.
      shapes: {checkpoint key: shape}.
      options: options that the config sets.
      stated: fields of a config.json without a `model_type`; {} without a file.

    Raises:
      InputError: keys of another layout, or a required fact that is not stated.
    """
    plain = {_without(key, layout.prefixes): shape for key, shape in shapes.items()}
    if layout.family not in _READERS:
        raise InputError(f"no config.json, which a {layout.family} needs; give the checkpoint's whole folder")
    try:
        config, left = _READERS[layout.family](plain, {**options, **_heads(stated)})
        return {**config, **stated}, {option for option, field in left.items() if field not in stated}
    except KeyError as error:
        raise InputError(
            f"a {layout.family} of layout {layout.name!r} needs {error.args[0]}, which is missing"
        ) from None


def _heads(stated: Mapping[str, Any]) -> dict[str, Any]:
    return {"heads": stated["num_attention_heads"]} if "num_attention_heads" in stated else {}


# Each reader returns the fields that shapes determine, and {undetermined option: the field that would state it}.


def _vit(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels, patch, _ = shapes["embeddings.patch_embeddings.projection.weight"]
    distilled = "embeddings.distillation_token" in shapes
    side = math.isqrt(shapes["embeddings.position_embeddings"][1] - 1 - distilled) * patch
    config = {
        "model_type": "deit" if distilled else "vit",
        "hidden_size": width,
        "patch_size": patch,
        "num_channels": channels,
        "image_size": side,
        "num_hidden_layers": _count(shapes, r"encoder\.layer\.(\d+)\..*"),
        "intermediate_size": shapes["encoder.layer.0.intermediate.dense.weight"][0],
        "num_attention_heads": _asked(options, "heads", f"a divisor of the width {width}"),
        "qkv_bias": "encoder.layer.0.attention.attention.query.bias" in shapes,
    }
    square = shapes["embeddings.position_embeddings"][1] - 1 - distilled == (side // patch) ** 2
    return config, {
        "heads": "num_attention_heads",
        "epsilon": "layer_norm_eps",
        **({} if square else {"image": "image_size"}),
    }


def _bert(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    vocab, width = shapes["embeddings.word_embeddings.weight"]
    config = {
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": _count(shapes, r"encoder\.layer\.(\d+)\..*"),
        "num_attention_heads": _asked(options, "heads", f"a divisor of the width {width}"),
        "intermediate_size": shapes["encoder.layer.0.intermediate.dense.weight"][0],
        "max_position_embeddings": shapes["embeddings.position_embeddings.weight"][0],
        "type_vocab_size": shapes["embeddings.token_type_embeddings.weight"][0],
    }
    return config, {
        "heads": "num_attention_heads",
        "epsilon": "layer_norm_eps",
        "activation": "hidden_act",
        "pool": "pooling_mode",
    }


def _resnet(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels = shapes["embedder.embedder.convolution.weight"][:2]
    stages = range(_count(shapes, r"encoder\.stages\.(\d+)\..*"))
    bottleneck = "encoder.stages.0.layers.0.layer.2.convolution.weight" in shapes
    last = 2 if bottleneck else 1
    config = {
        "embedding_size": width,
        "num_channels": channels,
        "depths": [_count(shapes, rf"encoder\.stages\.{i}\.layers\.(\d+)\..*") for i in stages],
        "hidden_sizes": [shapes[f"encoder.stages.{i}.layers.0.layer.{last}.convolution.weight"][0] for i in stages],
        "layer_type": "bottleneck" if bottleneck else "basic",
    }
    strides = {"stride_in_1x1": "downsample_in_bottleneck"} if bottleneck else {}
    return config, {**strides, "image": "image_size"}


def _mobilenet_v1(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    config = {
        "depth_multiplier": shapes["layer.25.convolution.weight"][0] / 1024,
        "num_channels": shapes["conv_stem.convolution.weight"][1],
    }
    return config, {
        "depth_multiplier": "depth_multiplier",
        "min_depth": "min_depth",
        "tf_padding": "tf_padding",
        "epsilon": "layer_norm_eps",
        "image": "image_size",
    }


_READERS: dict[str, Callable[[Shapes, Mapping[str, Any]], Facts]] = {
    "vit": _vit,
    "bert": _bert,
    "resnet": _resnet,
    "mobilenet_v1": _mobilenet_v1,
}


def _asked(options: Mapping[str, Any], option: str, hint: str) -> Any:
    if option not in options:
        raise InputError(f"no config.json, and shapes don't determine the {option}; set config.model.{option}, {hint}")
    return options[option]


def _count(shapes: Shapes, pattern: str) -> int:
    return 1 + max((int(hit[1]) for key in shapes if (hit := re.fullmatch(pattern, key))), default=-1)


def _without(key: str, prefixes: tuple[str, ...]) -> str:
    return next((key[len(prefix) :] for prefix in prefixes if key.startswith(prefix)), key)
