"""Swin and Swin V2 in Hugging Face's layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import asked, count
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import expect, image_options, image_processor, labelled, pair
from jaxfer.pretrained.families._swin import STATED, Names, keys_of, window_of
from jaxfer.pretrained.layout import Facts, Layout, Shapes

PREFIXES = ("swin.", "swinv2.")
V1_NAMES = r"^(?!swinv2\.)(.*)"  # transformers 5 keeps V2's names


class Config(TypedDict, total=False):
    """The fields of transformers' config.json that are read."""

    image_size: _image.Side
    patch_size: _image.Side
    num_channels: int
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    pretrained_window_sizes: tuple[int, ...]
    mlp_ratio: float
    qkv_bias: bool
    hidden_dropout_prob: float
    drop_path_rate: float
    hidden_act: str
    use_absolute_embeddings: bool
    layer_norm_eps: float


def _names(port: Port) -> Names:
    prefix = PREFIXES[port.options.v2]
    return Names(
        stem=(f"{prefix}embeddings.patch_embeddings.projection", f"{prefix}embeddings.norm"),
        merge=lambda stage: f"{prefix}encoder.layers.{stage - 1}.downsample",
        block=lambda stage, i: f"{prefix}encoder.layers.{stage}.blocks.{i}",
        norms=("layernorm_before", "layernorm_after"),
        qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
        biases=(),
        out="attention.output.dense",
        fc1="intermediate.dense",
        fc2="output.dense",
        inside="attention.self",
        position="continuous_position_bias_mlp",
        head=(f"{prefix}layernorm", "classifier"),
    )


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; absent fields have the defaults of `SwinConfig` and `Swinv2Config`.

    V2's windows are no larger than the maps of `image_size`, so images must be of this size.
    """
    expect(config, hidden_act="gelu", use_absolute_embeddings=False)
    v2 = config.get("model_type") == "swinv2"
    depths, heads = tuple(config.get("depths", (2, 2, 6, 2))), tuple(config.get("num_heads", (3, 6, 12, 24)))
    patch = pair(config.get("patch_size", 4), "config.json: patch_size")
    if patch[0] != patch[1]:
        raise InputError(f"config.json: expected square patches, found patch_size={config['patch_size']!r}")
    size = pair(config.get("image_size", 224), "config.json: image_size")
    window, before = config.get("window_size", 7), tuple(config.get("pretrained_window_sizes") or ())
    if len(heads) != len(depths) or v2 and before and len(before) < len(depths):
        raise InputError(
            f"config.json: expected num_heads and pretrained_window_sizes for the {len(depths)} stages of depths, "
            f"found {heads!r} and {before!r}"
        )
    windows = (window,) * len(depths)
    options = {
        "stage_sizes": depths,
        "width": config.get("embed_dim", 96),
        "heads": heads,
        "patch": patch[0],
        "v2": v2,
        "mlp_ratio": float(config.get("mlp_ratio", 4.0)),
        "qkv_bias": config.get("qkv_bias", True),
        "epsilon": float(config.get("layer_norm_eps", 1e-5)),
        "dropout": float(config.get("hidden_dropout_prob", 0.0)),
        "stochastic_depth": float(config.get("drop_path_rate", 0.1)),
        **image_options(preprocessor, config.get("num_channels", 3), size, processor="ViT", fixed=v2),
    }
    if v2:
        windows = tuple(min(size[0] // patch[0] // 2**stage, window) for stage in range(len(depths)))
        reaches = tuple(old or new for old, new in zip(before, windows, strict=False))
        options["reaches"] = reaches if reaches != windows else ()
    return {**options, "windows": windows}


def _window(port: Port) -> int:
    """transformers' one `window_size`; `InputError` where it would compute something else, or nothing."""
    options = port.options
    largest, grid = max(options.windows), options.maps[0]
    for stage, (rows, columns) in enumerate(options.maps):
        window, shifts = options.windows[stage], options.stage_sizes[stage] > 1
        if options.v2:
            known = tuple(side // 2**stage for side in grid)  # transformers rounds down where maps are rounded up
            fits = window == min(known[0], largest)
            same = not shifts or all((side <= window) == (known[0] <= window) for side in (rows, columns))
        else:
            fits = window == largest <= min(rows, columns)
            same = not shifts or (rows > window) == (columns > window)
        if not fits or not same:
            raise InputError(
                f"transformers' Swin has one window size, {'cut to the map' if options.v2 else 'which the map holds'}, "
                f"and shifts windows along both axes or none; found windows={options.windows} and maps={options.maps}: "
                "it can't be exported"
            )
    return largest


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    model, (height, width, channels) = port.options, port.encoding.size
    return {
        "architectures": [f"Swin{'v2' if model.v2 else ''}ForImageClassification"],
        "model_type": "swinv2" if model.v2 else "swin",
        "image_size": height if height == width else [height, width],
        "patch_size": model.patch,
        "num_channels": channels,
        "embed_dim": model.width,
        "depths": list(model.stage_sizes),
        "num_heads": list(model.heads),
        "window_size": _window(port),
        **({"pretrained_window_sizes": list(model.reaches or [0] * len(model.heads))} if model.v2 else {}),
        "mlp_ratio": model.mlp_ratio,
        "qkv_bias": model.qkv_bias,
        "hidden_act": "gelu",
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": model.stochastic_depth,
        "use_absolute_embeddings": False,
        "layer_norm_eps": model.epsilon,
        **labelled(port, labels),
    }


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels, patch, _ = shapes["embeddings.patch_embeddings.projection.weight"]
    stages = range(count(shapes, r"encoder\.layers\.(\d+)\..*"))
    first = "encoder.layers.{}.blocks.0"
    v2 = f"{first.format(0)}.attention.self.logit_scale" in shapes
    if v2:
        heads = [shapes[f"{first.format(i)}.attention.self.logit_scale"][0] for i in stages]
        window = max(asked(options, "windows", "one for each stage"))
    else:
        tables = [shapes[f"{first.format(i)}.attention.self.relative_position_bias_table"] for i in stages]
        heads, window = [table[1] for table in tables], window_of(tables[0][0])
    config = {
        "model_type": "swinv2" if v2 else "swin",
        "embed_dim": width,
        "num_channels": channels,
        "patch_size": patch,
        "depths": [count(shapes, rf"encoder\.layers\.{i}\.blocks\.(\d+)\..*") for i in stages],
        "num_heads": heads,
        "window_size": window,
        "mlp_ratio": shapes[f"{first.format(0)}.intermediate.dense.weight"][0] / width,
        "qkv_bias": f"{first.format(0)}.attention.self.query.bias" in shapes,
    }
    return config, {"image": "image_size", "epsilon": "layer_norm_eps"}


HF = Layout(
    name="hf",
    family="swin",
    model_types=("swin", "swinv2"),
    keys=keys_of(_names),
    options=_options,
    config=_config,
    preprocessor=image_processor,
    entry="embeddings.patch_embeddings.projection.weight",
    facts=Config,
    processor=_image.Preprocessor,
    optional=(r"classifier\..*",),
    # The others belong to masked image modelling.
    ignored=(rf".*\.({'|'.join(STATED)})", r"swin(v2)?\.embeddings\.mask_token", r"decoder\..*"),
    prefixes=PREFIXES,
    bare=_bare,
    in_memory=(
        (rf"{V1_NAMES}\.attention\.self\.(query|key|value)\b", lambda hit: f"{hit[1]}.attention.{hit[2][0]}_proj"),
        (rf"{V1_NAMES}\.attention\.self\.(relative_position_bias)_table", r"\1.attention.\2.\2_table"),
        (rf"{V1_NAMES}\.attention\.output\.dense\b", r"\1.attention.o_proj"),
        (rf"{V1_NAMES}\.intermediate\.dense\b", r"\1.mlp.fc1"),
        (rf"{V1_NAMES}\.output\.dense\b", r"\1.mlp.fc2"),
    ),
)
