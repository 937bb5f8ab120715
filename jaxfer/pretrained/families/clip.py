"""CLIP and SigLIP as a whole in the layout of Hugging Face: `CLIPModel` and `SiglipModel`.

Both write `config.json` of model types whose image tower alone is read unless the config asks for `clip`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.families import _image, _towers, clip_vision, siglip_vision
from jaxfer.pretrained.families._image import image_processor
from jaxfer.pretrained.layout import Key, Layout, Shapes, Transform

SCALAR = Transform("scalar", lambda x: x.reshape(1), lambda x: x.reshape(()))  # [] <-> [1]


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    vision_config: dict[str, Any] | None
    vision_config_dict: dict[str, Any] | None
    text_config: dict[str, Any] | None
    text_config_dict: dict[str, Any] | None
    projection_dim: int


def _keys(port: Port) -> dict[str, Key]:
    options, table = port.options, _towers.Table()
    layers, heads = options.image_layers, options.image_heads
    table.text("text_", options.text_layers, options.text_heads)
    if options.form == "clip":
        table.clip_image("image_", layers, heads)
        table.norm("image_head/norm", "vision_model.post_layernorm")
        table.dense("image_head/projection", "visual_projection", bias=None)
        table.dense("text_head/projection", "text_projection", bias=None)
    else:
        table.patches("image_", bias=True)
        table.blocks("image_", "vision_model", layers, heads)
        table.norm("image_head/norm", "vision_model.post_layernorm")
        table.map_pool("image_head/map", heads)
        table.dense("text_head/projection", "text_model.head")
    if port.outputs:
        table.dense("head/out", "classifier")
        return dict(table)
    if options.form == "clip":
        table["params/head/logit_scale"] = Key("logit_scale", SCALAR)
    else:
        table["params/head/logit_scale"] = Key("logit_scale")
        table["params/head/logit_bias"] = Key("logit_bias")
    return dict(table)


# Options of a tower that carry its name here.
OWN = ("width", "layers", "heads", "mlp_width", "activation", "epsilon")


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    vision, words = _towers.section(config, "vision"), _towers.section(config, "text")
    if config.get("model_type") == "clip":
        form = "clip"
        image = clip_vision.vision_options(vision, preprocessor)
        text = _towers.text_options(words, _towers.CLIP_TEXT) | _towers.end(words)
        projection = config.get("projection_dim", 512)
    else:
        form = "siglip"
        image = siglip_vision.vision_options(vision, preprocessor)
        text = _towers.text_options(words, _towers.SIGLIP_TEXT)
        projection = words.get("projection_size") or text["width"]
        if not vision.get("vision_use_head", True):
            raise InputError("config.json: vision_use_head is false; a SigLIP of two towers has its attention pooling")
    rates = {part.pop("attention_dropout") for part in (image, text)}
    if len(rates) > 1:
        raise InputError(f"config.json: expected one attention_dropout of both towers, found {sorted(rates)}")
    named = {f"{tower}_{name}": part.pop(name) for tower, part in (("image", image), ("text", text)) for name in OWN}
    return {"form": form, **image, **text, **named, "projection": projection, "attention_dropout": rates.pop()}


def _config(port: Port, given: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    options = port.options
    if port.outputs:
        raise InputError("transformers has no classifier of images with texts; the task contrastive is exported whole")
    words = _towers.text_config(options, options.form, "text_")
    if options.form == "clip":
        vision = clip_vision.vision_config(options, "image_")
        names = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": options.projection}
        words |= {"projection_dim": options.projection}
    else:
        vision = siglip_vision.vision_config(options, "image_")
        names = {"architectures": ["SiglipModel"], "model_type": "siglip"}
        words |= {"projection_size": options.projection}
    return {**names, "vision_config": vision, "text_config": words, "dtype": "float32"}


LAYOUTS = (
    Layout(
        name="hf",
        family="clip",
        model_types=(),
        on_request=("clip", "siglip"),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=image_processor,
        entry="vision_model.embeddings.patch_embedding.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        ignored=(r"logit_(scale|bias)", _towers.LISTED),
        without_outputs=("pair",),
    ),
)
