"""CLIP's text encoder in the layout of Hugging Face: `CLIPTextModel`, with a projection or not, and whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.models.port import Port
from jaxfer.pretrained.families import _towers
from jaxfer.pretrained.layout import Key, Layout, Shapes

PROJECTION = "text_projection.weight"


def _keys(port: Port) -> dict[str, Key]:
    options, table = port.options, _towers.Table()
    table.text("", options.layers, options.heads)
    if options.projection:
        table.dense("head/projection", "text_projection", bias=None)
    if port.outputs:
        table.dense("head/out", "classifier")
    return dict(table)


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; a checkpoint without a projection is read without one."""
    stated = _towers.section(config, "text")
    found = _towers.text_options(stated, _towers.CLIP_TEXT) | _towers.end(stated)
    return {**found, "projection": shapes[PROJECTION][0] if PROJECTION in shapes else 0}


def _config(port: Port, given: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    options = port.options
    name = "CLIPTextModelWithProjection" if options.projection else "CLIPTextModel"
    _towers.no_classifier(port, "CLIP's text encoder", name)
    return {
        "architectures": [name],
        **_towers.text_config(port.options, "clip"),
        "projection_dim": options.projection or options.width,
        "dtype": "float32",
    }


LAYOUTS = (
    Layout(
        name="hf",
        family="clip_text",
        model_types=("clip_text_model",),
        on_request=("clip",),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=lambda port: {},
        entry="embeddings.token_embedding.weight",
        facts=_towers.TextConfig,
        optional=(r"classifier\..*",),
        ignored=(
            r"text_projection\.weight",
            r"vision_model\..*",
            r"visual_projection\..*",
            r"logit_scale",
            _towers.LISTED,
        ),
        prefixes=("text_model.",),
        without_outputs=("embedding",),
    ),
)
