"""FT-Transformer under the names of the authors' package, `rtdl_revisiting_models`.

Its files have no config.json; that of an export states the heads and the columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import count
from jaxfer.pretrained.families._image import labelled
from jaxfer.pretrained.layout import DENSE, IDENTITY, Key, Layout, Shapes, Transform, heads_in, heads_out

HEADS = 8  # of every published size; shapes don't tell
COLUMNS = {"numbers": str, "means": float, "stds": float, "categories": str}
OUTPUT = "backbone.output.linear"


class _Columns(TypedDict, total=False):
    numbers: tuple[str, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    categories: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    heads: int
    columns: _Columns


def _reglu(x: Any) -> Any:
    """[2 * mlp_width, ...] -> [2, mlp_width, ...], the activated half first: theirs is the second."""
    return x.reshape(2, -1, *x.shape[1:])[::-1]


REGLU = Transform(
    "reglu",
    lambda x: _reglu(x).transpose(2, 0, 1) if x.ndim == 2 else _reglu(x),
    lambda x: (x.transpose(1, 2, 0) if x.ndim == 3 else x)[::-1].reshape(-1, *x.shape[:1] if x.ndim == 3 else ()),
)


def _keys(port: Port) -> dict[str, Key]:
    options = port.options
    split, joined = heads_out(options.heads), heads_in(options.heads)
    table: dict[str, Key] = {"params/stem/cls": Key("cls_embedding.weight")}

    def layer(leaf: str, key: str, kernel: Transform = DENSE, bias: Transform = IDENTITY) -> None:
        table[f"params/{leaf}/kernel"], table[f"params/{leaf}/bias"] = (
            Key(f"{key}.weight", kernel),
            Key(f"{key}.bias", bias),
        )

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"], table[f"params/{leaf}/bias"] = Key(f"{key}.weight"), Key(f"{key}.bias")

    if options.numbers:
        norm("stem/numbers", "cont_embeddings")
    if options.values:
        table["params/stem/categories/bias"] = Key("cat_embeddings.bias")
    for i in range(len(options.values)):
        table[f"params/stem/categories/value_{i}/embedding"] = Key(f"cat_embeddings.embeddings.{i}.weight")
    for i in range(options.blocks):
        block, key = f"block_{i}", f"backbone.blocks.{i}"
        for name in ("query", "key", "value"):
            layer(f"{block}/attn/{name}", f"{key}.attention.W_{name[0]}", split, split)
        layer(f"{block}/attn/out", f"{key}.attention.W_out", joined)
        if i:
            norm(f"{block}/norm_1", f"{key}.attention_normalization")
        norm(f"{block}/norm_2", f"{key}.ffn_normalization")
        layer(f"{block}/mlp/fc1", f"{key}.ffn.linear1", REGLU, REGLU)
        layer(f"{block}/mlp/fc2", f"{key}.ffn.linear2")
    norm("head/norm", "backbone.output.normalization")
    layer("head/out", OUTPUT)
    return table


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes, and from the config.json of an export."""
    blocks, first = count(shapes, r"backbone\.blocks\.(\d+)\..*"), "backbone.blocks.0.ffn.linear2.weight"
    if "cls_embedding.weight" not in shapes or first not in shapes:
        raise InputError(
            f"expected an FT-Transformer of rtdl_revisiting_models (cls_embedding.weight, {first}), found neither; "
            "its ReGLU form is read"
        )
    if odd := [key for key in shapes if "_compression" in key]:
        raise InputError(f"{odd[0]}: attention that compresses its keys is not supported; give a model without it")
    width, mlp_width = shapes[first]
    if shapes.get("backbone.blocks.0.ffn.linear1.weight") != (2 * mlp_width, width):
        raise InputError("the MLP is not gated; jaxfer reads FT-Transformers with ffn_activation='ReGLU'")
    columns = config.get("columns") or {}
    found = {name: tuple(map(kind, columns[name])) for name, kind in COLUMNS.items() if name in columns}
    if "values" in columns:
        found["values"] = tuple(tuple(map(str, words)) for words in columns["values"])
    return {
        "blocks": blocks,
        "width": width,
        "heads": config.get("heads", HEADS),
        "mlp_width": mlp_width,
        **found,
    }


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    ours = port.options
    columns = {name: list(getattr(ours, name)) for name in COLUMNS}
    return {
        "family": "ft_transformer",
        "key_layout": "rtdl",
        "heads": ours.heads,
        "columns": {**columns, "values": [list(words) for words in ours.values]},
        **labelled(port, labels),
    }


LAYOUTS = (
    Layout(
        name="rtdl",
        family="ft_transformer",
        model_types=(),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=lambda port: {},
        entry="cls_embedding.weight",
        facts=Config,
        optional=(r"backbone\.output\..*",),
    ),
)
