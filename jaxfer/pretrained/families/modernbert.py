"""ModernBERT in Hugging Face's layout: one tensor of query, key and value, one of the MLP's two first layers."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.data.encodings.tokenizers import read_tokenizer
from jaxfer.errors import InputError
from jaxfer.models.heads import EMBEDDING, TOKEN, VOCAB
from jaxfer.models.modernbert import Options
from jaxfer.models.port import Port
from jaxfer.pretrained.families import _text
from jaxfer.pretrained.families._text import Names, text_layout
from jaxfer.pretrained.layout import DENSE, IDENTITY, Key, Shapes, heads_in, heads_out
from jaxfer.pretrained.sentence import PREFIX

FULL, LOCAL = "full_attention", "sliding_attention"
THETAS = {FULL: ("global_rope_theta", 160000.0), LOCAL: ("local_rope_theta", 10000.0)}
NAMES = Names(
    family="modernbert",
    title="ModernBERT",
    classes="ModernBert",
    options=Options,
    model_types=("modernbert",),
    prefix="model.",
    parts={},
    stem={"word": "embeddings.tok_embeddings"},
    pooler="head.dense",
    tied={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    fields={
        "activation": "hidden_activation",
        "epsilon": "norm_eps",
        "dropout": "embedding_dropout",
        "attention_dropout": "attention_dropout",
        "mlp_dropout": "mlp_dropout",
        "classifier_pooling": "classifier_pooling",
        "classifier_activation": "classifier_activation",
        "classifier_bias": "classifier_bias",
        "decoder_bias": "decoder_bias",
        "norm_bias": "norm_bias",
        "bias": "attention_bias",
        "window": "local_attention",
        "global_every": "global_attn_every_n_layers",
        "theta": "global_rope_theta",
        "local_theta": "local_rope_theta",
    },
    defaults={
        "positions": 8192,
        "epsilon": 1e-5,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "classifier_dropout": 0.0,
        "decoder_bias": True,
    },
    padded_encoder=False,
)


class Besides(TypedDict, total=False):
    """Fields that are read besides those which state an option."""

    mlp_bias: bool
    layer_types: tuple[str, ...] | None
    rope_parameters: dict[str, Any] | None
    rope_scaling: dict[str, Any] | None


def keys(port: Port) -> dict[str, Key]:
    """The key table."""
    options, head = port.options, port.module.head
    table = {"params/stem/word/embedding": Key("model.embeddings.tok_embeddings.weight")}
    split, joined = heads_out(options.heads), heads_in(options.heads)

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"] = Key(f"{key}.weight")
        if options.norm_bias:
            table[f"params/{leaf}/bias"] = Key(f"{key}.bias")

    def dense(leaf: str, key: str, *, biased: bool, kernel=DENSE, bias=IDENTITY, **part: Any) -> None:
        table[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel, **part)
        if biased:
            table[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias, **part)

    norm("stem/norm", "model.embeddings.norm")
    for i in range(options.layers):
        block, layer, biased = f"block_{i}", f"model.layers.{i}.", options.bias
        if i:
            norm(f"{block}/norm_1", f"{layer}attn_norm")
        for part, name in enumerate(("query", "key", "value")):
            whole = dict(kernel=split, bias=split, part=(part, 3), axis=0)
            dense(f"{block}/attn/{name}", f"{layer}attn.Wqkv", biased=biased, **whole)
        dense(f"{block}/attn/out", f"{layer}attn.Wo", biased=biased, kernel=joined)
        norm(f"{block}/norm_2", f"{layer}mlp_norm")
        for part, name in enumerate(("fc1", "gate")):
            dense(f"{block}/mlp/{name}", f"{layer}mlp.Wi", biased=biased, part=(part, 2), axis=0)
        dense(f"{block}/mlp/fc2", f"{layer}mlp.Wo", biased=biased)
    norm("head/norm", "model.final_norm")
    prediction = "head/scores/prediction" if head == VOCAB else "head/prediction"
    if options.pool == "pooler" or head in (TOKEN, VOCAB):
        dense(f"{prediction}/dense", "head.dense", biased=options.classifier_bias)
        norm(f"{prediction}/norm", "head.norm")
    if head == VOCAB:
        return table | ({"params/head/scores/bias": Key("decoder.bias")} if options.decoder_bias else {})
    if options.projection and head != TOKEN:
        dense("head/dense", f"{PREFIX}linear", biased=options.projection_bias)
    if head != EMBEDDING:
        dense("head/out", "classifier", biased=True)
    return table


def options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options, except the tokenizer; anything that is not computed is refused."""
    biases = {name: bool(config.get(name)) for name in ("attention_bias", "mlp_bias")}
    if len(set(biases.values())) > 1:
        shown = " and ".join(f"{name}={value}" for name, value in biases.items())
        raise InputError(f"config.json: {shown} differ, which is not supported; both or neither are")
    config = {**config, **_thetas(config), **_pattern(config)}
    found = _text.options(config, shapes, NAMES)
    defaults = {"theta": THETAS[FULL][1], "local_theta": THETAS[LOCAL][1]}
    return found | {name: float(found.get(name, value)) for name, value in defaults.items()}


def _thetas(config: Mapping[str, Any]) -> dict[str, float]:
    """The bases of rotary positions, as files state them before and since transformers 5."""
    since, found = config.get("rope_parameters") or {}, {}
    for kind, (field, usual) in THETAS.items():
        stated = {**(since.get(kind) or {}), **(config.get("rope_scaling") or {})}
        scaling = stated.get("rope_type", stated.get("type", "default"))
        if scaling != "default":
            raise InputError(f"config.json: rope_type {scaling!r} of {kind} is not supported; expected 'default'")
        found[field] = stated.get("rope_theta") or config.get(field)
        if found[field] is None:  # a local base of null means the global one
            found[field] = found[THETAS[FULL][0]] if field in config else usual
    return found


def _pattern(config: Mapping[str, Any]) -> dict[str, int]:
    """Which blocks have global attention, by their distance."""
    types = config.get("layer_types")
    if types is None:
        return {}
    every = next((i for i, name in enumerate(types) if i and name == FULL), len(types))
    if list(types) != [LOCAL if i % every else FULL for i in range(len(types))]:
        raise InputError(
            f"config.json: expected layer_types with {FULL} in every n-th layer from the first on, found "
            f"{', '.join(types)}, which is not supported"
        )
    return {"global_attn_every_n_layers": every}


def _stated(port: Port, config: dict[str, Any]) -> dict[str, Any]:
    """config.json with the fields that are no option; transformers' own tokens may lie beyond the vocabulary."""
    tokenizer = port.options.tokenizer and read_tokenizer(port.options.tokenizer)
    tokens = ("pad", "bos", "eos", "cls", "sep")
    found = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in tokens}
    found["pad_token_id"] = found["pad_token_id"] or 0
    return {**config, **found, "mlp_bias": port.options.bias}


def config(port: Port, given: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """config.json of a `ModernBertForSequenceClassification`."""
    return _stated(port, _text.classifier(port, labels, NAMES))


def encoder(port: Port) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of a bare encoder."""
    stated, constants = _text.encoder(port, NAMES)
    return _stated(port, stated), constants


FACTS: Any = {**typing.get_type_hints(_text.facts(NAMES)), **typing.get_type_hints(Besides)}
LAYOUTS = (
    text_layout(
        NAMES,
        keys=keys,
        options=options,
        config=config,
        encoder=encoder,
        facts=TypedDict("Config", {**FACTS, "local_rope_theta": float | None}, total=False),  # type: ignore[misc]
        optional=(r"(head|classifier|decoder|dense\.linear)\..*",),
        bare=None,
    ),
)
