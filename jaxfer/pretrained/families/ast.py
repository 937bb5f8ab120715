"""AST in Hugging Face's layout: `ASTModel` and `ASTForAudioClassification` under the Hub's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.ast import SPECIAL, grid
from jaxfer.models.heads import EMBEDDING
from jaxfer.models.port import Port
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import expect, labelled, pair
from jaxfer.pretrained.layout import (
    CONV,
    DENSE,
    IDENTITY,
    Key,
    Layout,
    Shapes,
    Transform,
    heads_in,
    heads_out,
)
from jaxfer.pretrained.surgery import cut_or_stretched

PREFIX = "audio_spectrogram_transformer."
FRAMES, BINS, RATE = 1024, 128, 16000
MEAN, STD = -4.2677393, 4.5689974  # AudioSet's, transformers' default


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    layer_norm_eps: float
    patch_size: _image.Side
    qkv_bias: bool
    frequency_stride: int
    time_stride: int
    max_length: int
    num_mel_bins: int


class Processor(TypedDict, total=False):
    """The fields of preprocessor_config.json that are read."""

    feature_extractor_type: str
    sampling_rate: int
    num_mel_bins: int
    max_length: int
    do_normalize: bool
    mean: float
    std: float
    padding_value: float


def _keys(port: Port) -> dict[str, Key]:
    options = port.options
    split, joined = heads_out(options.heads), heads_in(options.heads)
    table: dict[str, Key] = {}

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"], table[f"params/{leaf}/bias"] = Key(f"{key}.weight"), Key(f"{key}.bias")

    def dense(leaf: str, key: str, kernel: Transform = DENSE, bias: Transform | None = IDENTITY) -> None:
        table[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel)
        if bias is not None:
            table[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias)

    dense("stem/patch", f"{PREFIX}embeddings.patch_embeddings.projection", CONV)
    table["params/stem/pos"] = Key(f"{PREFIX}embeddings.position_embeddings")
    for leaf, key in zip(SPECIAL, ("cls_token", "distillation_token"), strict=True):
        table[f"params/stem/{leaf}"] = Key(f"{PREFIX}embeddings.{key}")
    for i in range(options.layers):
        block, layer = f"block_{i}", f"{PREFIX}encoder.layer.{i}"
        norm(f"{block}/norm_1", f"{layer}.layernorm_before")
        norm(f"{block}/norm_2", f"{layer}.layernorm_after")
        for name in ("query", "key", "value"):
            key = f"{layer}.attention.attention.{name}"
            dense(f"{block}/attn/{name}", key, split, split if options.qkv_bias else None)
        dense(f"{block}/attn/out", f"{layer}.attention.output.dense", joined)
        dense(f"{block}/mlp/fc1", f"{layer}.intermediate.dense")
        dense(f"{block}/mlp/fc2", f"{layer}.output.dense")
    norm("head/norm", f"{PREFIX}layernorm")
    if port.module.head != EMBEDDING:
        norm("head/out_norm", "classifier.layernorm")
        dense("head/out", "classifier.dense")
    return table


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; absent fields have `ASTConfig`'s and `ASTFeatureExtractor`'s defaults."""
    expect(config, hidden_act="gelu")
    patch = pair(config.get("patch_size", 16), "config.json: patch_size")
    if patch[0] != patch[1]:
        raise InputError(f"config.json: expected square patches, found patch_size={list(patch)}")
    read = {"max_length": config.get("max_length", FRAMES), "num_mel_bins": config.get("num_mel_bins", BINS)}
    for name, value in read.items():
        default = {"max_length": FRAMES, "num_mel_bins": BINS}[name]
        if preprocessor and preprocessor.get(name, default) != value:
            raise InputError(
                f"preprocessor_config.json has {name}={preprocessor.get(name, default)}, config.json {value}; correct "
                "one of them"
            )
    kind = preprocessor.get("feature_extractor_type", "ASTFeatureExtractor")
    if kind != "ASTFeatureExtractor":
        raise InputError(f"preprocessor_config.json: expected an ASTFeatureExtractor, found {kind}")
    for name, value in {"sampling_rate": RATE, "padding_value": 0.0}.items():
        if preprocessor.get(name, value) != value:
            raise InputError(
                f"preprocessor_config.json: expected {name}={value:g}, found {preprocessor[name]}, which is not "
                "supported"
            )
    # Without normalisation (x - 0) / (2 * 0.5).
    normal = preprocessor.get("do_normalize", True)
    return {
        "width": config.get("hidden_size", 768),
        "layers": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "mlp_width": config.get("intermediate_size", 3072),
        "patch": patch[0],
        "frequency_stride": config.get("frequency_stride", 10),
        "time_stride": config.get("time_stride", 10),
        "qkv_bias": config.get("qkv_bias", True),
        "epsilon": float(config.get("layer_norm_eps", 1e-12)),
        "dropout": float(config.get("hidden_dropout_prob", 0.0)),
        "attention_dropout": float(config.get("attention_probs_dropout_prob", 0.0)),
        "rate": RATE,
        "frames": read["max_length"],
        "mels": read["num_mel_bins"],
        "log_mean": float(preprocessor.get("mean", MEAN)) if normal else 0.0,
        "log_std": float(preprocessor.get("std", STD)) if normal else 0.5,
    }


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    ours = port.options
    return {
        "architectures": ["ASTForAudioClassification"],
        "model_type": "audio-spectrogram-transformer",
        "hidden_size": ours.width,
        "num_hidden_layers": ours.layers,
        "num_attention_heads": ours.heads,
        "intermediate_size": ours.mlp_width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": ours.dropout,
        "attention_probs_dropout_prob": ours.attention_dropout,
        "layer_norm_eps": ours.epsilon,
        "patch_size": ours.patch,
        "qkv_bias": ours.qkv_bias,
        "frequency_stride": ours.frequency_stride,
        "time_stride": ours.time_stride,
        "max_length": ours.frames,
        "num_mel_bins": ours.mels,
        **labelled(port, labels),
    }


def _processor(port: Port) -> dict[str, Any]:
    """preprocessor_config.json of an `ASTFeatureExtractor`."""
    encoding = port.encoding
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": encoding.rate,
        "num_mel_bins": encoding.mels,
        "max_length": encoding.frames,
        "do_normalize": True,
        "mean": encoding.log_mean,
        "std": encoding.log_std,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
    }


def _resized(options: Mapping[str, Any], port: Port) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Positions of a checkpoint with other frames or bins."""
    names = ("mels", "frames", "patch", "frequency_stride", "time_stride")
    old = grid(*(options[name] for name in names))
    return {"params/stem/pos": lambda x: cut_or_stretched(x, old, port.options.grid, extra=len(SPECIAL))}


LAYOUTS = (
    Layout(
        name="hf",
        family="ast",
        model_types=("audio-spectrogram-transformer",),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=_processor,
        entry="embeddings.patch_embeddings.projection.weight",
        facts=Config,
        processor=Processor,
        optional=(r"classifier\..*",),
        fresh=(r"params/head/out_norm/.*",),
        prefixes=(PREFIX,),
        resized=_resized,
        in_memory=(
            (r"\.encoder\.layer\.", ".layers."),
            (r"\.attention\.attention\.(query|key|value)\b", lambda hit: f".attention.{hit[1][0]}_proj"),
            (r"\.attention\.output\.dense\b", ".attention.o_proj"),
            (r"\.intermediate\.dense\b", ".mlp.fc1"),
            (r"\.output\.dense\b", ".mlp.fc2"),
        ),
    ),
)
