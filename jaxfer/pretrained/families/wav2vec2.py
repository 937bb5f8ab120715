"""wav2vec 2.0 and HuBERT in Hugging Face's layout: `...ForSequenceClassification`, and the bare or pretrained networks.

The convolution of positions keeps its weight normalisation: length and direction of every tap are leaves, as they are
parameters there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.heads import EMBEDDING
from jaxfer.models.port import Port
from jaxfer.models.wav2vec2 import KINDS
from jaxfer.pretrained.families._image import expect, labelled
from jaxfer.pretrained.layout import DENSE, IDENTITY, Key, Layout, Shapes, Transform, heads_in, heads_out

CLASSES = {"wav2vec2": "Wav2Vec2ForSequenceClassification", "hubert": "HubertForSequenceClassification"}
ORDERS = {False: "post", True: "pre"}  # by do_stable_layer_norm
# [out, in, window] <-> [window, 1, in, out]
CONV_1D = Transform("conv_1d", lambda x: x.transpose(2, 1, 0)[:, None], lambda x: x[:, 0].transpose(2, 1, 0))
LENGTHS = Transform("lengths", lambda x: x.reshape(-1), lambda x: x.reshape(1, 1, -1))
IDENTICAL = "identity"  # in config.json: the layer before the mean over the sound, where this model has none


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    hidden_dropout: float
    activation_dropout: float
    attention_dropout: float
    feat_proj_dropout: float
    feat_proj_layer_norm: bool
    layer_norm_eps: float
    feat_extract_norm: str
    feat_extract_activation: str
    conv_dim: tuple[int, ...]
    conv_stride: tuple[int, ...]
    conv_kernel: tuple[int, ...]
    conv_bias: bool
    conv_pos_batch_norm: bool
    num_conv_pos_embeddings: int
    num_conv_pos_embedding_groups: int
    do_stable_layer_norm: bool
    use_weighted_layer_sum: bool
    classifier_proj_size: int
    add_adapter: bool
    adapter_attn_dim: int | None
    projector: str


class Processor(TypedDict, total=False):
    """The fields of preprocessor_config.json that are read."""

    feature_extractor_type: str
    feature_size: int
    sampling_rate: int
    do_normalize: bool
    return_attention_mask: bool
    padding_value: float
    padding_side: str


def _keys(port: Port) -> dict[str, Key]:
    options = port.options
    prefix = f"{options.kind}."
    split, joined = heads_out(options.heads), heads_in(options.heads)
    table: dict[str, Key] = {}

    def layer(leaf: str, key: str, kernel: Transform = DENSE, bias: Transform | None = IDENTITY) -> None:
        table[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel)
        if bias is not None:
            table[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias)

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"], table[f"params/{leaf}/bias"] = Key(f"{key}.weight"), Key(f"{key}.bias")

    for i in range(len(options.widths)):
        key = f"{prefix}feature_extractor.conv_layers.{i}"
        layer(f"stem/conv_{i}", f"{key}.conv", CONV_1D, IDENTITY if options.conv_bias else None)
        if i == 0 or options.extractor_norm == "layer":
            norm(f"stem/norm_{i}", f"{key}.layer_norm")
    if options.feature_norm:
        norm("project/norm", f"{prefix}feature_projection.layer_norm")
    layer("project/dense", f"{prefix}feature_projection.projection")
    conv = f"{prefix}encoder.pos_conv_embed.conv"
    both = f"{conv}.parametrizations.weight.original"
    table["params/project/pos/scale"] = Key(f"{conv}.weight_g", LENGTHS, (f"{both}0",))
    table["params/project/pos/window"] = Key(f"{conv}.weight_v", CONV_1D, (f"{both}1",))
    table["params/project/pos/bias"] = Key(f"{conv}.bias")
    norm("project/out_norm" if options.norm == "post" else "head/norm", f"{prefix}encoder.layer_norm")
    for i in range(options.layers):
        block, key = f"block_{i}", f"{prefix}encoder.layers.{i}"
        norm(f"{block}/norm_1", f"{key}.layer_norm")
        for name in ("query", "key", "value"):
            layer(f"{block}/attn/{name}", f"{key}.attention.{name[0]}_proj", split, split)
        layer(f"{block}/attn/out", f"{key}.attention.out_proj", joined)
        norm(f"{block}/norm_2", f"{key}.final_layer_norm")
        layer(f"{block}/mlp/fc1", f"{key}.feed_forward.intermediate_dense")
        layer(f"{block}/mlp/fc2", f"{key}.feed_forward.output_dense")
    if options.layer_sum:
        table["params/head/layer_weights"] = Key("layer_weights")
    if options.projection:
        layer("head/project", "projector")
    if port.module.head != EMBEDDING:
        layer("head/out", "classifier")
    return table


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; absent fields have the defaults of `Wav2Vec2Config` and `Wav2Vec2FeatureExtractor`.

    No file states how long sounds are.
    """
    expect(
        config,
        feat_extract_activation="gelu",
        conv_pos_batch_norm=False,
        add_adapter=False,
        adapter_attn_dim=None,
    )
    stated = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "padding_value": 0.0}
    for name, value in {**stated, "padding_side": "right"}.items():
        if preprocessor.get(name, value) != value:
            raise InputError(
                f"preprocessor_config.json: expected {name}={value!r}, found {preprocessor[name]!r}, which is not "
                "supported"
            )
    norm = config.get("feat_extract_norm", "group")
    projected = config.get("projector") != IDENTICAL
    summed = config.get("use_weighted_layer_sum", False)
    if summed and config.get("do_stable_layer_norm", False):
        raise InputError(
            "config.json: use_weighted_layer_sum=true with do_stable_layer_norm=true is not supported: versions of "
            "transformers differ in whether the last block's output is normed"
        )
    return {
        "kind": config.get("model_type", KINDS[0]),
        "widths": tuple(config.get("conv_dim", (512,) * 7)),
        "windows": tuple(config.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))),
        "steps": tuple(config.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))),
        "conv_bias": config.get("conv_bias", False),
        "extractor_norm": norm,
        "width": config.get("hidden_size", 768),
        "layers": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "mlp_width": config.get("intermediate_size", 3072),
        "norm": ORDERS[config.get("do_stable_layer_norm", False)],
        "feature_norm": config.get("feat_proj_layer_norm", True),
        "taps": config.get("num_conv_pos_embeddings", 128),
        "groups": config.get("num_conv_pos_embedding_groups", 16),
        "activation": config.get("hidden_act", "gelu"),
        "epsilon": float(config.get("layer_norm_eps", 1e-5)),
        "dropout": float(config.get("hidden_dropout", 0.1)),
        "attention_dropout": float(config.get("attention_dropout", 0.1)),
        "activation_dropout": float(config.get("activation_dropout", 0.1)),
        "feature_dropout": float(config.get("feat_proj_dropout", 0.0)),
        "rate": preprocessor.get("sampling_rate", 16000),
        "normalize": preprocessor.get("do_normalize", True),
        "masked": preprocessor.get("return_attention_mask", norm == "layer"),
        # Of the head: without one in the checkpoint, a run chooses.
        **({"layer_sum": True} if summed else {}),
        **(
            {"projection": config.get("classifier_proj_size", 256) if projected else 0}
            if "projector.weight" in shapes
            else {}
        ),
    }


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    ours = port.options
    hubert = {"feat_proj_layer_norm": ours.feature_norm, "conv_pos_batch_norm": False}
    if ours.kind != "hubert" and not ours.feature_norm:
        raise InputError("transformers' wav2vec 2.0 norms its features, this model does not; it is a kind='hubert'")
    return {
        "architectures": [CLASSES[ours.kind]],
        "model_type": ours.kind,
        "hidden_size": ours.width,
        "num_hidden_layers": ours.layers,
        "num_attention_heads": ours.heads,
        "intermediate_size": ours.mlp_width,
        "hidden_act": ours.activation,
        "hidden_dropout": ours.dropout,
        "activation_dropout": ours.activation_dropout,
        "attention_dropout": ours.attention_dropout,
        "feat_proj_dropout": ours.feature_dropout,
        "final_dropout": 0.0,
        "layerdrop": 0.0,
        "layer_norm_eps": ours.epsilon,
        "feat_extract_norm": ours.extractor_norm,
        "feat_extract_activation": "gelu",
        "conv_dim": list(ours.widths),
        "conv_stride": list(ours.steps),
        "conv_kernel": list(ours.windows),
        "conv_bias": ours.conv_bias,
        "num_feat_extract_layers": len(ours.widths),
        "num_conv_pos_embeddings": ours.taps,
        "num_conv_pos_embedding_groups": ours.groups,
        "do_stable_layer_norm": ours.norm == "pre",
        # Without masks there is no vector in their place.
        "apply_spec_augment": False,
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
        "use_weighted_layer_sum": ours.layer_sum,
        "classifier_proj_size": ours.projection or ours.width,
        **({} if ours.projection else {"projector": IDENTICAL}),
        **(hubert if ours.kind == "hubert" else {}),
        **labelled(port, labels),
    }


def _constants(port: Port) -> dict[str, np.ndarray]:
    """The layer before the mean over the sound, which transformers' classifiers always have."""
    options = port.options
    if options.projection or port.module.head == EMBEDDING:
        return {}
    return {
        "projector.weight": np.eye(options.width, dtype=np.float32),
        "projector.bias": np.zeros(options.width, np.float32),
    }


def _processor(port: Port) -> dict[str, Any]:
    """preprocessor_config.json of a `Wav2Vec2FeatureExtractor`."""
    encoding = port.encoding
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": encoding.rate,
        "do_normalize": encoding.normalize,
        "return_attention_mask": encoding.masked,
        "padding_value": 0.0,
        "padding_side": "right",
    }


LAYOUTS = (
    Layout(
        name="hf",
        family="wav2vec2",
        model_types=KINDS,
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=_processor,
        entry="feature_extractor.conv_layers.0.conv.weight",
        facts=Config,
        processor=Processor,
        optional=(r"(projector|classifier)\..*", "layer_weights"),
        fresh=(r"params/head/(project/.*|layer_weights)",),
        # What stands for masked places, what they are told by, and letters.
        ignored=(
            r"(wav2vec2\.|hubert\.)?masked_spec_embed",
            r"(quantizer|project_q|project_hid|lm_head|label_embeddings_concat|final_proj)\b.*",
        ),
        prefixes=("wav2vec2.", "hubert."),
        constants=_constants,
    ),
)
