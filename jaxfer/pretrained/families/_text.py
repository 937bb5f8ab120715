"""Encoders of texts in Hugging Face's layout: a family states its names, and has its `Layout` from them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.heads import EMBEDDING, TOKEN, VOCAB
from jaxfer.models.port import Port
from jaxfer.models.text import EncoderOptions
from jaxfer.pretrained.bare import asked, count
from jaxfer.pretrained.layout import (
    DENSE,
    IDENTITY,
    Facts,
    Key,
    Layout,
    Shapes,
    Transform,
    heads_in,
    heads_out,
)
from jaxfer.pretrained.sentence import PREFIX

LONGEST = 128  # default limit in tokens: the cost of attention grows quadratically
# The field of config.json that states an option, in most families.
FIELDS = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "classifier_dropout": "classifier_dropout",
}
NEEDED = ("vocab", "width", "layers", "heads", "mlp_width")
DEFAULTS = {"positions": 512, "activation": "gelu", "epsilon": 1e-12, "dropout": 0.1, "attention_dropout": 0.1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
    """How transformers names the parts of a family.

    Attributes:
      family: name of its file in `jaxfer/models`.
      title: its name in errors.
      classes: its name in front of `ForSequenceClassification`.
      options: the dataclass of its options.
      model_types: values of `model_type`; the first is written.
      prefix: of all keys of the encoder.
      layer: key of block {i}, before the names of its parts.
      parts: {path in a block: name}.
      block: path of block {i} among ours.
      stem: {path in the stem: key below the prefix}.
      pooler: key of the layer that a classifier reads through.
      out: key of a classifier's output layer.
      token_out: the same of a classifier of tokens; empty: `out`.
      vocab: {part of a vocab head (`dense`, `norm`): key}, and `bias`.
      tied: {key of a tensor that a masked LM's file may repeat: key of the one that is read}.
      fields: {option: field of config.json}; an option without one is None.
      defaults: {option: value} where config.json says nothing; transformers' own.
      fixed: fields that the family reads with one value only.
      written: fields of a written config.json besides.
      ignored: regexes of keys, below the prefix or not, that carry nothing.
      in_memory: see `Layout`.
      prompts: see `Layout`.
      padded_encoder: whether a bare encoder has a pooler that no classifier reads.
    """

    family: str
    title: str
    classes: str
    options: type[EncoderOptions]
    model_types: tuple[str, ...]
    prefix: str
    layer: str = "encoder.layer.{i}."
    parts: Mapping[str, str]
    block: str = "block_{i}"
    stem: Mapping[str, str]
    pooler: str
    out: str = "classifier"
    token_out: str = ""
    vocab: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fields: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    written: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    in_memory: tuple[tuple[str, Any], ...] = ()
    prompts: tuple[str, ...] = ()
    padded_encoder: bool = True

    @property
    def of(self) -> dict[str, str]:
        """{option: field} of the options that config.json states."""
        known = {field.name for field in dataclasses.fields(self.options)}
        named = {**FIELDS, **self.fields}
        return {option: field for option, field in named.items() if field and option in known}


# The parts of a block, and of the stem, under BERT's names.
BERT_PARTS = {
    "attn/query": "attention.self.query",
    "attn/key": "attention.self.key",
    "attn/value": "attention.self.value",
    "attn/out": "attention.output.dense",
    "norm_1": "attention.output.LayerNorm",
    "mlp/fc1": "intermediate.dense",
    "mlp/fc2": "output.dense",
    "norm_2": "output.LayerNorm",
}
BERT_STEM = {
    "word": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "type": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}


def text_layout(names: Names, **changes: Any) -> Layout:
    """The layout of an encoder; `changes` are fields of `Layout` that differ."""
    heads = dict.fromkeys((names.pooler, names.out, names.token_out or names.out, *names.vocab.values()))
    layout = Layout(
        name="hf",
        family=names.family,
        model_types=names.model_types,
        keys=lambda port: keys(port, names),
        options=lambda config, preprocessor, shapes: options(config, shapes, names),
        config=lambda port, given, labels: classifier(port, labels, names),
        preprocessor=lambda port: {},
        entry=f"{names.stem['word']}.weight",
        facts=facts(names),
        optional=(*(rf"{key}(\..*)?".replace("bias(\\..*)?", "bias") for key in heads), r"dense\.linear\..*"),
        # Heads of pretraining and question answering do not transfer to other tasks; `masked_lm` has its own, whose
        # decoder is the word embedding.
        ignored=(rf"{names.prefix}embeddings\.(position_ids|token_type_ids)", r"qa_outputs\..*", *names.ignored),
        prefixes=(names.prefix,),
        tied=lambda port: names.tied if port.module.head == VOCAB else {},
        bare=lambda shapes, given: bare(shapes, given, names),
        in_memory=names.in_memory,
        prompts=names.prompts,
        encoder=lambda port: encoder(port, names),
    )
    return dataclasses.replace(layout, **changes)


def facts(names: Names) -> type:
    """The fields of config.json that are read, as a TypedDict."""
    hints = typing.get_type_hints(names.options)
    fields = {field: hints[option] for option, field in names.of.items()}
    if "attention_dropout" in names.of:
        fields[names.of["attention_dropout"]] = float  # ours takes another option's value for None
    fields |= {name: type(value) for name, value in names.fixed.items()}
    return TypedDict("Config", {**fields, "pooling_mode_mean_tokens": bool, "tie_word_embeddings": bool}, total=False)  # type: ignore[misc]


def keys(port: Port, names: Names) -> dict[str, Key]:
    """The key table. Releases of 2018 keep TensorFlow's names for norms, which are read too."""
    module, head = port.options, port.module.head
    split, joined = heads_out(module.heads), heads_in(module.heads)
    table: dict[str, Key] = {}

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"] = Key(f"{key}.weight", others=(f"{key}.gamma",))
        table[f"params/{leaf}/bias"] = Key(f"{key}.bias", others=(f"{key}.beta",))

    def dense(leaf: str, key: str, kernel: Transform = DENSE, bias: Transform = IDENTITY) -> None:
        table[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel)
        table[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias)

    def either(leaf: str, key: str) -> None:
        (norm if "norm" in leaf.rsplit("/", 1)[-1] else dense)(leaf, key)

    for leaf, key in names.stem.items():
        if leaf in ("word", "position", "type"):
            table[f"params/stem/{leaf}/embedding"] = Key(f"{names.prefix}{key}.weight")
        elif leaf == "relative":
            table[f"params/stem/{leaf}"] = Key(f"{names.prefix}{key}.weight")
        elif leaf != "project" or module.projects:
            either(f"stem/{leaf}", f"{names.prefix}{key}")
    transforms = {**dict.fromkeys(("attn/query", "attn/key", "attn/value"), (split, split)), "attn/out": (joined,)}
    for i in range(1 if module.form.once else module.layers):
        block, layer = names.block.format(i=i), names.prefix + names.layer.format(i=i)
        for leaf, key in names.parts.items():
            if leaf in transforms:
                dense(f"{block}/{leaf}", f"{layer}{key}", *transforms[leaf])
            else:
                either(f"{block}/{leaf}", f"{layer}{key}")
    if head == VOCAB:
        if not names.vocab:
            raise InputError(f"{names.title} has no head over the vocabulary; choose another task")
        for leaf in ("dense", "norm"):
            either(f"head/{leaf}", names.vocab[leaf])
        table["params/head/bias"] = Key(names.vocab["bias"])
        return table
    if module.pool == "pooler" and head != TOKEN:
        dense("head/pooler", names.pooler)
    if module.projection and head != TOKEN:
        table["params/head/dense/kernel"] = Key(f"{PREFIX}linear.weight", DENSE)
        if module.projection_bias:
            table["params/head/dense/bias"] = Key(f"{PREFIX}linear.bias")
    if head != EMBEDDING:
        pools = head != TOKEN and module.pool == "pooler"
        dense("head/out", names.out if pools or not names.token_out else names.token_out)
    return table


def options(config: Mapping[str, Any], shapes: Shapes, names: Names) -> dict[str, Any]:
    """The port's options, except the tokenizer.

    The pooling is the `pooling_mode` of sentence-transformers' files. Without it, the layer that transformers'
    classifiers of this family pool with is used if the checkpoint has one, else the mean.
    """
    of = names.of
    for option in NEEDED:
        if of[option] not in config:
            needed = ", ".join(of[name] for name in NEEDED)
            raise InputError(f"config.json of a {names.title} needs {needed}; {of[option]} is missing")
    for name, value in {"position_embedding_type": "absolute", **names.fixed}.items():
        if config.get(name, value) != value:
            raise InputError(f"config.json: expected {name} {value!r}, found {config[name]!r}, which is not supported")
    for name in ("is_decoder", "add_cross_attention"):
        if config.get(name):
            raise InputError(f"config.json: {name} is true; {names.title} is read as an encoder only")
    stated = {**DEFAULTS, **names.defaults}
    stated |= {option: config[field] for option, field in of.items() if field in config}
    found = {option: value for option, value in stated.items() if option in of}
    for option in ("epsilon", "dropout", "attention_dropout"):
        if option in found:
            found[option] = float(found[option])
    found["positions"] -= names.options.form.offset
    if "attention_dropout" in found and found["attention_dropout"] == found["dropout"]:
        found["attention_dropout"] = None
    dropped = found.get("classifier_dropout")
    found["classifier_dropout"] = None if dropped in (None, found["dropout"]) else float(dropped)
    key = f"{names.pooler}.weight"
    pooler = key in shapes or key.removeprefix(names.prefix) in shapes
    return {
        **found,
        "pool": config.get("pooling_mode") or ("pooler" if pooler else "mean"),
        "max_length": min(LONGEST, found["positions"]),
    }


def classifier(port: Port, labels: Sequence[str], names: Names) -> dict[str, Any]:
    """config.json of a `...ForSequenceClassification`; without labels (regression), LABEL_0, ..."""
    module = port.options
    _check_head(port)
    if module.pool != "pooler" or module.projection or module.normalize:
        settings = f"pool={module.pool!r}"
        settings += (
            f", projection={module.projection}" * bool(module.projection) + ", normalize=True" * module.normalize
        )
        raise InputError(
            f"transformers has no {names.title} classifier with {settings}; use --format=sentence-transformers, or "
            "train one that it has with config.model.pool=pooler and config.differs=pool"
        )
    called = list(labels) or [f"LABEL_{i}" for i in range(port.outputs)]
    return {
        **architecture(port, names),
        "architectures": [f"{names.classes}ForSequenceClassification"],
        "id2label": {str(i): name for i, name in enumerate(called)},
        "label2id": {name: i for i, name in enumerate(called)},
        **({} if labels else {"problem_type": "regression"}),
    }


def encoder(port: Port, names: Names) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config.json, constants) of a bare encoder; its pooler, required but unused, is zero."""
    _check_head(port)
    width = port.options.width
    config = {**architecture(port, names), "architectures": [f"{names.classes}Model"]}
    if not names.padded_encoder:
        return config, {}
    pooler = {"weight": np.zeros((width, width), np.float32), "bias": np.zeros(width, np.float32)}
    inside = names.pooler.startswith(names.prefix)
    key = names.pooler.removeprefix(names.prefix) if inside else "pooler.dense"
    return config, {f"{key}.{name}": value for name, value in pooler.items()}


def architecture(port: Port, names: Names) -> dict[str, Any]:
    """config.json without the head."""
    module = port.options
    values = {option: getattr(module, option) for option in names.of}
    values["positions"] += module.form.offset
    for option in ("attention_dropout", "classifier_dropout"):
        if option in values and values[option] is None:
            values[option] = module.dropout
    stated = {field: values[option] for option, field in names.of.items()}
    return {"model_type": names.model_types[0], **stated, "pad_token_id": 0, "dtype": "float32", **names.written}


def bare(shapes: Shapes, given: Mapping[str, Any], names: Names) -> Facts:
    """`Layout.bare`: what shapes say of an encoder."""
    vocab, channels = shapes[f"{names.stem['word']}.weight"]
    first = names.layer.format(i=0)
    fc1 = shapes[f"{first}{names.parts['mlp/fc1']}.weight"]
    found = {
        "vocab": vocab,
        "width": fc1[1],
        "layers": asked(given, "layers", "how often the block runs")
        if names.options.form.once
        else count(shapes, names.layer.replace(".", r"\.").format(i=r"(\d+)") + ".*"),
        "heads": asked(given, "heads", f"a divisor of the width {fc1[1]}"),
        "mlp_width": fc1[0],
        "positions": shapes[f"{names.stem['position']}.weight"][0],
        **({"types": shapes[f"{names.stem['type']}.weight"][0]} if "type" in names.stem else {}),
        **({"embedding_width": channels} if "project" in names.stem else {}),
    }
    of = names.of
    left = {option: of[option] for option in ("heads", "epsilon", "activation") if option in of}
    return {of[option]: value for option, value in found.items() if option in of}, {**left, "pool": "pooling_mode"}


def _check_head(port: Port) -> None:
    if port.module.head == VOCAB:
        raise InputError("a vocab head is not exported; give the run to another one with config.init=run:FOLDER")
