"""DeBERTa v2 and v3 and mDeBERTa in Hugging Face's layout, where all are `deberta-v2`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.deberta import Options
from jaxfer.models.heads import VOCAB
from jaxfer.models.port import Port
from jaxfer.pretrained.families import _text
from jaxfer.pretrained.families._text import BERT_PARTS, BERT_STEM, Names, text_layout
from jaxfer.pretrained.layout import Key, Shapes, Transform, heads_out

WORDS = "deberta.embeddings.word_embeddings.weight"
NAMES = Names(
    family="deberta",
    title="DeBERTa",
    classes="DebertaV2",
    options=Options,
    model_types=("deberta-v2",),
    prefix="deberta.",
    parts={**BERT_PARTS, **{f"attn/{name}": f"attention.self.{name}_proj" for name in ("query", "key", "value")}},
    stem=BERT_STEM,
    pooler="pooler.dense",
    # Two heads of masked LM have been released, which compute the same; files of v3 have the first.
    vocab={"dense": "lm_predictions.lm_head.dense", "norm": "lm_predictions.lm_head.LayerNorm"}
    | {"bias": "lm_predictions.lm_head.bias"},
    tied={"cls.predictions.decoder.weight": WORDS},
    fields={
        "classifier_dropout": "cls_dropout",
        "share_att_key": "share_att_key",
        "position_buckets": "position_buckets",
        "max_distance": "max_relative_positions",
        "position_biased": "position_biased_input",
        "conv": "conv_kernel_size",
        "conv_activation": "conv_act",
        "pooler_activation": "pooler_hidden_act",
        "pooler_dropout": "pooler_dropout",
    },
    defaults={
        "types": 0,
        "epsilon": 1e-7,
        "share_att_key": False,
        "position_buckets": -1,
        "max_distance": -1,
        "position_biased": True,
    },
    fixed={"relative_attention": True, "conv_groups": 1},
    written={"relative_attention": True, "conv_groups": 1},
    ignored=(
        *(r"(cls|lm_predictions|mask_predictions)\..*", r"deberta\.embeddings\.position_embeddings\.weight"),
        r"(deberta\.)?pooler\..*",
    ),
    padded_encoder=False,
)
LEGACY = {"lm_predictions.lm_head.dense": "cls.predictions.transform.dense"}
LEGACY |= {"lm_predictions.lm_head.LayerNorm": "cls.predictions.transform.LayerNorm"}
LEGACY |= {"lm_predictions.lm_head.bias": "cls.predictions.bias"}
# [out, in, tokens] <-> [tokens, 1, in, out]
CONV_1D = Transform("conv_1d", lambda x: x.transpose(2, 1, 0)[:, None], lambda x: x[:, 0].transpose(2, 1, 0))


class Besides(TypedDict, total=False):
    """Fields that are read besides those which state an option."""

    relative_attention: bool
    pos_att_type: str | tuple[str, ...] | None
    norm_rel_ebd: str
    embedding_size: int
    attention_head_size: int
    pooler_hidden_size: int
    conv_groups: int


def _named(port: Port) -> Names:
    """The names of what this port has."""
    options, stem = port.options, dict(NAMES.stem)
    lacking = [name for name, has in (("position", options.position_biased), ("type", options.types)) if not has]
    return dataclasses.replace(NAMES, stem={leaf: key for leaf, key in stem.items() if leaf not in lacking})


def keys(port: Port) -> dict[str, Key]:
    """The key table."""
    options, table = port.options, _text.keys(port, _named(port))
    if port.module.head == VOCAB:
        for leaf in [leaf for leaf in table if leaf.startswith("params/head/")]:
            name, _, end = table[leaf].name.rpartition(".")
            other = LEGACY.get(table[leaf].name) or f"{LEGACY[name]}.{end}"
            table[leaf] = dataclasses.replace(table[leaf], others=(*table[leaf].others, other))
    encoder, split = f"{NAMES.prefix}encoder.", heads_out(options.heads)
    table["params/stem/distances"] = Key(f"{encoder}rel_embeddings.weight")
    if options.norm_distances:
        table["params/stem/norm_distances/scale"] = Key(f"{encoder}LayerNorm.weight")
        table["params/stem/norm_distances/bias"] = Key(f"{encoder}LayerNorm.bias")
    if options.conv:
        table["params/block_0/conv/kernel"] = Key(f"{encoder}conv.conv.weight", CONV_1D)
        table["params/block_0/conv/bias"] = Key(f"{encoder}conv.conv.bias")
        table["params/block_0/norm_conv/scale"] = Key(f"{encoder}conv.LayerNorm.weight")
        table["params/block_0/norm_conv/bias"] = Key(f"{encoder}conv.LayerNorm.bias")
    own = {"key": options.c2p, "query": options.p2c}
    for i in range(options.layers):
        for name in (name for name, has in own.items() if has and not options.share_att_key):
            leaf, key = f"params/block_{i}/attn/distance/{name}", f"{encoder}layer.{i}.attention.self.pos_{name}_proj"
            table |= {f"{leaf}/kernel": Key(f"{key}.weight", split), f"{leaf}/bias": Key(f"{key}.bias", split)}
    return table


def options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options, except the tokenizer; anything that is not computed is refused."""
    if not config.get("relative_attention"):
        raise InputError("config.json: expected relative_attention true; a DeBERTa without it is not supported")
    found = _text.options(config, shapes, NAMES)
    width, heads = found["width"], found["heads"]
    for name, value in {
        "embedding_size": width,
        "pooler_hidden_size": width,
        "attention_head_size": width // heads,
    }.items():
        if config.get(name) not in (None, value):
            raise InputError(f"config.json: expected {name} {value}, found {config[name]!r}, which is not supported")
    kinds = config.get("pos_att_type") or ()
    kinds = [kind.strip() for kind in kinds.lower().split("|")] if isinstance(kinds, str) else list(kinds)
    if not kinds or not set(kinds) <= {"c2p", "p2c"}:
        raise InputError(f"config.json: expected pos_att_type of c2p and p2c, found {config.get('pos_att_type')!r}")
    norms = str(config.get("norm_rel_ebd", "none")).lower()
    for name in ("position_buckets", "max_distance"):
        found[name] = max(found[name], 0)
    return {
        **found,
        "max_distance": 0 if found["max_distance"] == found["positions"] else found["max_distance"],
        "c2p": "c2p" in kinds,
        "p2c": "p2c" in kinds,
        "norm_distances": "layer_norm" in [norm.strip() for norm in norms.split("|")],
    }


def _stated(port: Port, config: dict[str, Any]) -> dict[str, Any]:
    """config.json with the fields that are no option."""
    options = port.options
    config |= {
        "pos_att_type": [name for name in ("p2c", "c2p") if getattr(options, name)],
        "norm_rel_ebd": "layer_norm" if options.norm_distances else "none",
        "position_buckets": options.position_buckets or -1,
        "max_relative_positions": options.max_distance or -1,
        "pooler_hidden_size": options.width,
    }
    return config


def config(port: Port, given: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """config.json of a `DebertaV2ForSequenceClassification`."""
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
        facts=TypedDict("Config", FACTS, total=False),  # type: ignore[misc]
        bare=None,
    ),
)
