"""SigLIP's text encoder in the layout of Hugging Face: `SiglipTextModel`, and whole models of SigLIP and SigLIP 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.models.port import Port
from jaxfer.pretrained.families import _towers
from jaxfer.pretrained.layout import Key, Layout, Shapes


def _keys(port: Port) -> dict[str, Key]:
    options, table = port.options, _towers.Table()
    table.text("", options.layers, options.heads)
    table.dense("head/projection", "text_model.head")
    if port.outputs:
        table.dense("head/out", "classifier")
    return dict(table)


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    stated = _towers.section(config, "text")
    found = _towers.text_options(stated, _towers.SIGLIP_TEXT)
    return {**found, "projection": stated.get("projection_size") or found["width"]}


def _config(port: Port, given: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    _towers.no_classifier(port, "SigLIP's text encoder", "SiglipTextModel")
    return {
        "architectures": ["SiglipTextModel"],
        **_towers.text_config(port.options, "siglip"),
        "projection_size": port.options.projection,
        "dtype": "float32",
    }


LAYOUTS = (
    Layout(
        name="hf",
        family="siglip_text",
        model_types=("siglip_text_model", "siglip2_text_model"),
        on_request=("siglip", "siglip2"),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=lambda port: {},
        entry="embeddings.token_embedding.weight",
        facts=_towers.TextConfig,
        optional=(r"classifier\..*",),
        ignored=(r"vision_model\..*", r"logit_(scale|bias)", _towers.LISTED),
        prefixes=("text_model.",),
        without_outputs=("embedding",),
    ),
)
