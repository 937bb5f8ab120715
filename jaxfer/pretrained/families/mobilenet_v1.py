"""MobileNetV1 in Hugging Face's layout: `MobileNetV1ForImageClassification` and the bare `MobileNetV1Model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.mobilenet_v1 import STRIDES
from jaxfer.models.port import Port
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import expect, image_options, image_processor, labelled, pair
from jaxfer.pretrained.layout import CONV, DENSE, DEPTHWISE, Facts, Key, Layout, Shapes

PREFIX = "mobilenet_v1."
# transformers' default, found in most configs, is TensorFlow's keep probability. Used as a drop rate, as transformers
# does, it would drop nearly all inputs of the classifier in training.
TF_KEPT, TF_DROPPED = 0.999, 0.001


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    depth_multiplier: float
    min_depth: int
    tf_padding: bool
    image_size: _image.Side
    num_channels: int
    hidden_act: str
    layer_norm_eps: float
    classifier_dropout_prob: float


def _layers() -> dict[str, tuple[str, str]]:
    """{checkpoint layer: (convolution leaf, norm)}; each block is two checkpoint layers."""
    layers = {"conv_stem": ("stem/conv/kernel", "stem/norm")}
    for i in range(len(STRIDES)):
        layers[f"layer.{2 * i}"] = (f"block_{i}/depthwise/window", f"block_{i}/norm_1")
        layers[f"layer.{2 * i + 1}"] = (f"block_{i}/pointwise/kernel", f"block_{i}/norm_2")
    return layers


def _keys(port: Port) -> dict[str, Key]:
    if port.options.strides != STRIDES:
        raise InputError(
            f"transformers' MobileNetV1 has strides={STRIDES}, found {port.options.strides}; use its strides"
        )
    table = {"params/head/out/kernel": Key("classifier.weight", DENSE), "params/head/out/bias": Key("classifier.bias")}
    for layer, (leaf, norm) in _layers().items():
        turn = DEPTHWISE if leaf.endswith("window") else CONV
        table[f"params/{leaf}"] = Key(f"{PREFIX}{layer}.convolution.weight", turn)
        normed = f"{PREFIX}{layer}.normalization"
        table[f"params/{norm}/scale"], table[f"params/{norm}/bias"] = Key(f"{normed}.weight"), Key(f"{normed}.bias")
        for name in ("mean", "var"):
            table[f"batch_stats/{norm}/{name}"] = Key(f"{normed}.running_{name}")
    return table


def _options(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The port's options; no file states the norms' momentum (0.9997 in transformers' code), so the default holds."""
    expect(config, hidden_act="relu6")
    size = pair(config.get("image_size", 224), "config.json: image_size")
    return {
        "depth_multiplier": float(config.get("depth_multiplier", 1.0)),
        "min_depth": config.get("min_depth", 8),
        "tf_padding": config.get("tf_padding", True),
        "dropout": _dropped(float(config.get("classifier_dropout_prob", TF_KEPT))),
        "epsilon": float(config.get("layer_norm_eps", 1e-3)),
        **image_options(preprocessor, config.get("num_channels", 3), size, processor="MobileNetV1", fixed=False),
    }


def _dropped(rate: float) -> float:
    """The drop rate: the file's value, unless it is TensorFlow's keep probability."""
    return TF_DROPPED if rate == TF_KEPT else rate


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    module, (height, width, channels) = port.options, port.encoding.size
    return {
        "architectures": ["MobileNetV1ForImageClassification"],
        "model_type": "mobilenet_v1",
        "num_channels": channels,
        "image_size": height if height == width else [height, width],
        "depth_multiplier": module.depth_multiplier,
        "min_depth": module.min_depth,
        "hidden_act": "relu6",
        "tf_padding": module.tf_padding,
        "classifier_dropout_prob": module.dropout,
        "layer_norm_eps": module.epsilon,
        **labelled(port, labels),
    }


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
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


LAYOUTS = (
    Layout(
        name="hf",
        family="mobilenet_v1",
        model_types=("mobilenet_v1",),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=image_processor,
        entry="conv_stem.convolution.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        ignored=(r".*\.num_batches_tracked",),
        prefixes=(PREFIX,),
        constants=lambda port: {
            f"{PREFIX}{layer}.normalization.num_batches_tracked": np.int64(0) for layer in _layers()
        },
        bare=_bare,
    ),
)
