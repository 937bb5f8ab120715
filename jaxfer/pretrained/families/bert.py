"""BERT in Hugging Face's layout: `BertModel`, with a classifier or `BertForMaskedLM`'s head, sentence-transformers'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.heads import EMBEDDING, TOKEN, VOCAB
from jaxfer.models.port import Port
from jaxfer.pretrained.layout import DENSE, IDENTITY, Key, Layout, Transform, heads_in, heads_out
from jaxfer.pretrained.sentence import PREFIX

NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
LONGEST = 128  # default limit in tokens: the cost of attention grows quadratically


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_act: str
    position_embedding_type: str
    is_decoder: bool
    add_cross_attention: bool
    layer_norm_eps: float
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    classifier_dropout: float | None
    pooling_mode_mean_tokens: bool
    tie_word_embeddings: bool


def _keys(port: Port) -> dict[str, Key]:
    """The key table; google-bert/bert-base-uncased and other releases of 2018 keep TensorFlow's names for norms."""
    module = port.module
    split, joined = heads_out(module.heads), heads_in(module.heads)
    table: dict[str, Key] = {}

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"] = Key(f"bert.{key}.weight", others=(f"bert.{key}.gamma",))
        table[f"params/{leaf}/bias"] = Key(f"bert.{key}.bias", others=(f"bert.{key}.beta",))

    def dense(leaf: str, key: str, kernel: Transform = DENSE, bias: Transform = IDENTITY) -> None:
        table[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel)
        table[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias)

    for leaf, key in (("word", "word"), ("position", "position"), ("type", "token_type")):
        table[f"params/stem/{leaf}/embedding"] = Key(f"bert.embeddings.{key}_embeddings.weight")
    norm("stem/norm", "embeddings.LayerNorm")
    for i in range(module.layers):
        block, layer = f"block_{i}", f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            dense(f"{block}/attn/{name}", f"bert.{layer}.attention.self.{name}", split, split)
        dense(f"{block}/attn/out", f"bert.{layer}.attention.output.dense", joined)
        norm(f"{block}/norm_1", f"{layer}.attention.output.LayerNorm")
        dense(f"{block}/mlp/fc1", f"bert.{layer}.intermediate.dense")
        dense(f"{block}/mlp/fc2", f"bert.{layer}.output.dense")
        norm(f"{block}/norm_2", f"{layer}.output.LayerNorm")
    if module.head == VOCAB:
        transform = "cls.predictions.transform"
        dense("head/dense", f"{transform}.dense")
        for leaf, name, other in (("scale", "weight", "gamma"), ("bias", "bias", "beta")):
            key = f"{transform}.LayerNorm"
            table[f"params/head/norm/{leaf}"] = Key(f"{key}.{name}", others=(f"{key}.{other}",))
        table["params/head/bias"] = Key("cls.predictions.bias")
        return table
    if module.pool == "pooler" and module.head != TOKEN:
        dense("head/pooler", "bert.pooler.dense")
    if module.projection and module.head != TOKEN:
        table["params/head/dense/kernel"] = Key(f"{PREFIX}linear.weight", DENSE)
        if module.projection_bias:
            table["params/head/dense/bias"] = Key(f"{PREFIX}linear.bias")
    if module.head != EMBEDDING:
        dense("head/out", "classifier")
    return table


def _options(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The port's options, except the tokenizer.

    The pooling is the `pooling_mode` of sentence-transformers' files. Without it, BERT's pooler is used if the
    checkpoint has one, else the mean.
    """
    for name in NEEDED:
        if name not in config:
            raise InputError(f"config.json of a BERT needs {', '.join(NEEDED)}; {name} is missing")
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise InputError(
            f"config.json: expected position_embedding_type 'absolute', found {kind!r}, which is not supported"
        )
    for name in ("is_decoder", "add_cross_attention"):
        if config.get(name):
            raise InputError(f"config.json: {name} is true; BERT is read as an encoder only")
    pooler = any(key.endswith("pooler.dense.weight") for key in shapes)
    dropout = float(config.get("hidden_dropout_prob", 0.1))
    attention_dropout = float(config.get("attention_probs_dropout_prob", 0.1))
    classifier_dropout = config.get("classifier_dropout")
    positions = config.get("max_position_embeddings", 512)
    return {
        "vocab": config["vocab_size"],
        "width": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "mlp_width": config["intermediate_size"],
        "positions": positions,
        "types": config.get("type_vocab_size", 2),
        "pool": config.get("pooling_mode") or ("pooler" if pooler else "mean"),
        "activation": config.get("hidden_act", "gelu"),
        "epsilon": float(config.get("layer_norm_eps", 1e-12)),
        "dropout": dropout,
        "attention_dropout": None if attention_dropout == dropout else attention_dropout,
        "classifier_dropout": None if classifier_dropout in (None, dropout) else float(classifier_dropout),
        "max_length": min(LONGEST, positions),
    }


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """config.json of a `BertForSequenceClassification`; without labels (regression), LABEL_0, ..."""
    module = port.module
    _check_head(port)
    if module.pool != "pooler" or module.projection or module.normalize:
        settings = f"pool={module.pool!r}"
        settings += (
            f", projection={module.projection}" * bool(module.projection) + ", normalize=True" * module.normalize
        )
        raise InputError(
            f"transformers has no BERT classifier with {settings}; use --format=sentence-transformers instead"
        )
    names = list(labels) or [f"LABEL_{i}" for i in range(module.outputs)]
    return {
        **_architecture(port),
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        **({} if labels else {"problem_type": "regression"}),
    }


def _encoder(port: Port) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config.json, constants) of a bare `BertModel`; its pooler, required but unused, is zero."""
    _check_head(port)
    width = port.module.width
    pooler = {"weight": np.zeros((width, width), np.float32), "bias": np.zeros(width, np.float32)}
    config = {**_architecture(port), "architectures": ["BertModel"]}
    return config, {f"pooler.dense.{name}": value for name, value in pooler.items()}


def _check_head(port: Port) -> None:
    if port.module.head == VOCAB:
        raise InputError("a vocab head is not exported; give the run to another one with config.init=run:FOLDER")


def _architecture(port: Port) -> dict[str, Any]:
    """config.json without the head."""
    module = port.module
    return {
        "model_type": "bert",
        "vocab_size": module.vocab,
        "hidden_size": module.width,
        "num_hidden_layers": module.layers,
        "num_attention_heads": module.heads,
        "intermediate_size": module.mlp_width,
        "hidden_act": module.activation,
        "hidden_dropout_prob": module.dropout,
        "attention_probs_dropout_prob": module.attention_dropout,
        "classifier_dropout": module.classifier_dropout,
        "max_position_embeddings": module.positions,
        "type_vocab_size": module.types,
        "layer_norm_eps": module.epsilon,
        "pad_token_id": 0,
        "dtype": "float32",
    }


LAYOUTS = (
    Layout(
        name="hf",
        family="bert",
        model_types=("bert",),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=lambda port: {},
        optional=(r"classifier\..*", r"bert\.pooler\..*", r"dense\.linear\..*", r"cls\.predictions\..*"),
        # Heads of pretraining and question answering do not transfer to other tasks; `masked_lm` has its own of `cls`,
        # whose decoder is the word embedding.
        ignored=(r"bert\.embeddings\.(position_ids|token_type_ids)", r"cls\..*", r"qa_outputs\..*"),
        prefixes=("bert.",),
        encoder=_encoder,
        entry="embeddings.word_embeddings.weight",
        facts=Config,
    ),
)
