"""Whisper's encoder: Hugging Face's layout, of a `WhisperForAudioClassification` or a whole model; CTranslate2's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.heads import EMBEDDING
from jaxfer.models.port import Port
from jaxfer.models.whisper_encoder import sinusoids
from jaxfer.pretrained.bare import count
from jaxfer.pretrained.families._image import expect, labelled
from jaxfer.pretrained.layout import DENSE, IDENTITY, Key, Layout, Shapes, Transform, heads_in, heads_out

POSITIONS = "encoder.embed_positions.weight"
# [out, in, window] <-> [window, 1, in, out]
CONV_1D = Transform("conv_1d", lambda x: x.transpose(2, 1, 0)[:, None], lambda x: x[:, 0].transpose(2, 1, 0))


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    num_mel_bins: int
    max_source_positions: int
    classifier_proj_size: int
    activation_function: str
    use_weighted_layer_sum: bool
    dropout: float
    attention_dropout: float
    activation_dropout: float


class Processor(TypedDict, total=False):
    """The fields of preprocessor_config.json that are read."""

    feature_extractor_type: str
    feature_size: int
    sampling_rate: int
    hop_length: int
    n_fft: int
    chunk_length: int | float
    dither: float


def _keys(port: Port) -> dict[str, Key]:
    options = port.options
    split, joined = heads_out(options.heads), heads_in(options.heads)
    table: dict[str, Key] = {}

    def layer(leaf: str, key: str, kernel: Transform = DENSE, bias: Transform | None = IDENTITY) -> None:
        table[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel)
        if bias is not None:
            table[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias)

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"], table[f"params/{leaf}/bias"] = Key(f"{key}.weight"), Key(f"{key}.bias")

    for i in (1, 2):
        layer(f"stem/conv_{i}", f"encoder.conv{i}", CONV_1D)
    for i in range(options.layers):
        block, key = f"block_{i}", f"encoder.layers.{i}"
        norm(f"{block}/norm_1", f"{key}.self_attn_layer_norm")
        layer(f"{block}/attn/query", f"{key}.self_attn.q_proj", split, split)
        layer(f"{block}/attn/key", f"{key}.self_attn.k_proj", split, None)
        layer(f"{block}/attn/value", f"{key}.self_attn.v_proj", split, split)
        layer(f"{block}/attn/out", f"{key}.self_attn.out_proj", joined)
        norm(f"{block}/norm_2", f"{key}.final_layer_norm")
        layer(f"{block}/mlp/fc1", f"{key}.fc1")
        layer(f"{block}/mlp/fc2", f"{key}.fc2")
    norm("head/norm", "encoder.layer_norm")
    if options.projection:
        layer("head/project", "projector")
    if port.module.head != EMBEDDING:
        layer("head/out", "classifier")
    return table


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; absent fields have `WhisperConfig`'s and `WhisperFeatureExtractor`'s defaults."""
    expect(config, activation_function="gelu", use_weighted_layer_sum=False)
    rate = preprocessor.get("sampling_rate", 16000)
    for name, value in {"hop_length": rate // 100, "n_fft": rate // 40, "dither": 0.0}.items():
        if preprocessor.get(name, value) != value:
            raise InputError(
                f"preprocessor_config.json: expected {name}={value} at {rate} samples a second, found "
                f"{preprocessor[name]}, which is not supported"
            )
    mels, positions = config.get("num_mel_bins", 80), config.get("max_source_positions", 1500)
    if preprocessor.get("feature_size", mels) != mels:
        raise InputError(
            f"preprocessor_config.json has feature_size={preprocessor['feature_size']}, config.json "
            f"num_mel_bins={mels}; correct one of them"
        )
    return {
        "width": config.get("d_model", 384),
        "layers": config.get("encoder_layers", 4),
        "heads": config.get("encoder_attention_heads", 6),
        "mlp_width": config.get("encoder_ffn_dim", 1536),
        "projection": config.get("classifier_proj_size", 256) if "projector.weight" in shapes else 0,
        "positions": positions,
        "dropout": float(config.get("dropout", 0.0)),
        "attention_dropout": float(config.get("attention_dropout", 0.0)),
        "activation_dropout": float(config.get("activation_dropout", 0.0)),
        "rate": rate,
        "seconds": float(preprocessor.get("chunk_length", positions / 50)),
        "mels": mels,
    }


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    ours = port.options
    if not ours.projection:
        raise InputError(
            "transformers' Whisper classifiers have a layer before the mean over time (projector), this model has "
            "none; predict with `jaxfer predict`"
        )
    return {
        "architectures": ["WhisperForAudioClassification"],
        "model_type": "whisper",
        "d_model": ours.width,
        "encoder_layers": ours.layers,
        "num_hidden_layers": ours.layers,
        "encoder_attention_heads": ours.heads,
        "encoder_ffn_dim": ours.mlp_width,
        "num_mel_bins": ours.mels,
        "max_source_positions": ours.positions,
        "classifier_proj_size": ours.projection,
        "activation_function": "gelu",
        "dropout": ours.dropout,
        "attention_dropout": ours.attention_dropout,
        "activation_dropout": ours.activation_dropout,
        **labelled(port, labels),
    }


def _processor(port: Port) -> dict[str, Any]:
    """preprocessor_config.json of a `WhisperFeatureExtractor`."""
    encoding = port.encoding
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": encoding.mels,
        "sampling_rate": encoding.rate,
        "hop_length": encoding.hop,
        "n_fft": encoding.window,
        "chunk_length": encoding.seconds,
        "n_samples": encoding.samples,
        "nb_max_frames": encoding.frames,
        "padding_value": 0.0,
    }


HEAD = 64  # channels of a head in every published Whisper; CTranslate2's shapes don't tell


def _ct2_keys(port: Port) -> dict[str, Key]:
    """CTranslate2's names: query, key and value are one tensor, whose part of the key's bias is zero."""
    parts = {"query": 0, "key": 1, "value": 2}
    names = {
        "norm_1": "self_attention/layer_norm",
        "attn/out": "self_attention/linear_1",
        "norm_2": "ffn/layer_norm",
        "mlp/fc1": "ffn/linear_0",
        "mlp/fc2": "ffn/linear_1",
    }
    table = {}
    for leaf, key in _keys(port).items():
        place, _, name = leaf.removeprefix("params/").rpartition("/")
        unit, _, inside = place.partition("/")
        norm = "norm" in place.rsplit("/", 1)[-1]
        end = {"scale": "gamma", "bias": "beta"}[name] if norm else {"kernel": "weight"}.get(name, name)
        layer = f"encoder/layer_{unit.removeprefix('block_')}"
        if unit == "stem":
            table[leaf] = dataclasses.replace(key, name=f"encoder/{inside.replace('_', '')}/{end}")
        elif inside.removeprefix("attn/") in parts:
            part = (parts[inside.removeprefix("attn/")], 3)
            table[leaf] = dataclasses.replace(key, name=f"{layer}/self_attention/linear_0/{end}", part=part, axis=0)
        elif unit != "head":
            table[leaf] = dataclasses.replace(key, name=f"{layer}/{names[inside]}/{end}")
        else:
            table[leaf] = dataclasses.replace(key, name=f"encoder/layer_norm/{end}") if norm else key
    return table


def _ct2_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes; the length of the input is the longest, unless the config sets it."""
    needed = ("encoder/conv1/weight", "encoder/position_encodings/encodings", "encoder/layer_0/ffn/linear_0/weight")
    if missing := [key for key in needed if key not in shapes]:
        raise InputError(f"expected a Whisper of CTranslate2 ({', '.join(needed)}), found no {missing[0]}")
    (width, mels, _), (positions, _) = shapes[needed[0]], shapes[needed[1]]
    return {
        "width": width,
        "layers": count(shapes, r"encoder/layer_(\d+)/.*"),
        "heads": config.get("heads", width // HEAD),
        "mlp_width": shapes[needed[2]][0],
        "positions": positions,
        "seconds": positions / 50,
        "mels": mels,
    }


def _ct2_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    raise InputError("CTranslate2 models can be read but not written; use --format=hf")


LAYOUTS = (
    Layout(
        name="hf",
        family="whisper_encoder",
        model_types=("whisper",),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=_processor,
        entry="encoder.layers.0.self_attn.q_proj.weight",
        facts=Config,
        processor=Processor,
        optional=(r"(projector|classifier)\..*",),
        # What writes the words down is no part of a classifier.
        ignored=(r"decoder\..*", r"proj_out\..*"),
        prefixes=("model.",),
        constants=lambda port: {POSITIONS: sinusoids(port.options.positions, port.options.width)},
    ),
    Layout(
        name="ctranslate2",
        family="whisper_encoder",
        model_types=(),
        keys=_ct2_keys,
        options=_ct2_options,
        config=_ct2_config,
        preprocessor=_processor,
        optional=(r"(projector|classifier)\..*",),
        ignored=(r"decoder/.*", "encoder/num_heads"),
        guessed=("heads", "seconds"),
        constants=lambda port: {
            "encoder/position_encodings/encodings": sinusoids(port.options.positions, port.options.width)
        },
    ),
)
