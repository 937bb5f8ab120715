"""Swin and Swin V2 in Hugging Face's layout, in torchvision's and in timm's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.models.swin import distances, places
from jaxfer.pretrained.bare import asked, count
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import (
    expect,
    image_options,
    image_processor,
    input_options,
    labelled,
    own_config,
    pair,
)
from jaxfer.pretrained.layout import (
    CONV,
    DENSE,
    IDENTITY,
    Facts,
    Key,
    Layout,
    Shapes,
    Timm,
    Transform,
    heads_in,
    heads_out,
)

PREFIXES = ("swin.", "swinv2.")
SCALE = Transform("logit_scale", lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1))
GUESSED = 8  # places of a side of a V2's windows, where nothing states them
STATED = "relative_position_index", "relative_coords_table"  # what a window's size determines


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


class Names(NamedTuple):
    """A layout's names, without `.weight` and `.bias`; those of a block follow its own.

    Attributes:
      stem: of the convolution and the norm.
      merge: stage -> of the patch merging before it.
      block: (stage, index) -> of a block.
      norms: of both norms.
      qkv: of query, key and value; of one layer where they are three parts of it.
      biases: keys of the biases of query and value, where they are none of their layers'.
      out, fc1, fc2: of attention's output layer and of the MLP.
      inside: what comes before a bias's table, a logit scale or a position MLP.
      position: of the position MLP.
      head: of the norm and the output layer.
    """

    stem: tuple[str, str]
    merge: Callable[[int], str]
    block: Callable[[int, int], str]
    norms: tuple[str, str]
    qkv: tuple[str, ...]
    biases: tuple[str, ...]
    out: str
    fc1: str
    fc2: str
    inside: str
    position: str
    head: tuple[str, str]


def _hf_names(port: Port) -> Names:
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


def _torchvision_names(port: Port) -> Names:
    return Names(
        stem=("features.0.0", "features.0.2"),
        merge=lambda stage: f"features.{2 * stage}",
        block=lambda stage, i: f"features.{2 * stage + 1}.{i}",
        norms=("norm1", "norm2"),
        qkv=("attn.qkv",),
        biases=(),
        out="attn.proj",
        fc1="mlp.0",
        fc2="mlp.3",
        inside="attn",
        position="cpb_mlp",
        head=("norm", "head"),
    )


def _timm_names(port: Port) -> Names:
    return Names(
        stem=("patch_embed.proj", "patch_embed.norm"),
        merge=lambda stage: f"layers.{stage}.downsample",
        block=lambda stage, i: f"layers.{stage}.blocks.{i}",
        norms=("norm1", "norm2"),
        qkv=("attn.q", "attn.k", "attn.v"),
        biases=("attn.q_bias", "attn.v_bias") if port.options.v2 else (),
        out="attn.proj",
        fc1="mlp.fc1",
        fc2="mlp.fc2",
        inside="attn",
        position="cpb_mlp",
        head=("norm", "head.fc"),
    )


def _keys(names: Callable[[Port], Names]) -> Callable[[Port], dict[str, Key]]:
    """The key table of a layout."""

    def keys(port: Port) -> dict[str, Key]:
        of, options, table = names(port), port.options, {}

        def layer(path: str, name: str, leaf: str = "kernel", turn: Transform = DENSE) -> None:
            table[f"params/{path}/{leaf}"] = Key(f"{name}.weight", turn)
            table[f"params/{path}/bias"] = Key(f"{name}.bias")

        def norm(path: str, name: str) -> None:
            layer(path, name, "scale", IDENTITY)

        layer("stem/patch", of.stem[0], turn=CONV)
        norm("stem/norm", of.stem[1])
        for unit, stage, i in _blocks(port):
            block = of.block(stage, i)
            if stage and not i:
                norm(f"{unit}/merge/norm", f"{of.merge(stage)}.norm")
                table[f"params/{unit}/merge/reduce/kernel"] = Key(f"{of.merge(stage)}.reduction.weight", DENSE)
            for n in (1, 2):
                norm(f"{unit}/norm_{n}", f"{block}.{of.norms[n - 1]}")
            split = heads_out(options.heads[stage])
            for n, name in enumerate(("query", "key", "value")):
                part = dict(part=(n, 3), axis=0) if len(of.qkv) == 1 else {}
                key = f"{block}.{of.qkv[n % len(of.qkv)]}"
                table[f"params/{unit}/attn/{name}/kernel"] = Key(f"{key}.weight", split, **part)
                if options.qkv_bias and not (options.v2 and name == "key"):
                    bias = f"{block}.{of.biases[n // 2]}" if of.biases else f"{key}.bias"
                    table[f"params/{unit}/attn/{name}/bias"] = Key(bias, split, **part)
            layer(f"{unit}/attn/out", f"{block}.{of.out}", turn=heads_in(options.heads[stage]))
            inside = f"{block}.{of.inside}"
            if options.v2:
                table[f"params/{unit}/attn/scale"] = Key(f"{inside}.logit_scale", SCALE)
                layer(f"{unit}/attn/position/fc1", f"{inside}.{of.position}.0")
                table[f"params/{unit}/attn/position/fc2/kernel"] = Key(f"{inside}.{of.position}.2.weight", DENSE)
            else:
                table[f"params/{unit}/attn/relative"] = Key(f"{inside}.relative_position_bias_table")
            layer(f"{unit}/mlp/fc1", f"{block}.{of.fc1}")
            layer(f"{unit}/mlp/fc2", f"{block}.{of.fc2}")
        norm("head/norm", of.head[0])
        layer("head/out", of.head[1])
        return table

    return keys


def _blocks(port: Port) -> Iterator[tuple[str, int, int]]:
    """Yields (unit, stage, index within the stage) of every block."""
    order = ((stage, i) for stage, blocks in enumerate(port.options.stage_sizes) for i in range(blocks))
    return ((f"block_{n}", *place) for n, place in enumerate(order))


def _hf_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
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


def _hf_window(port: Port) -> int:
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


def _hf_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
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
        "window_size": _hf_window(port),
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


def _hf_bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels, patch, _ = shapes["embeddings.patch_embeddings.projection.weight"]
    stages = range(count(shapes, r"encoder\.layers\.(\d+)\..*"))
    first = "encoder.layers.{}.blocks.0"
    v2 = f"{first.format(0)}.attention.self.logit_scale" in shapes
    if v2:
        heads = [shapes[f"{first.format(i)}.attention.self.logit_scale"][0] for i in stages]
        window = max(asked(options, "windows", "one for each stage"))
    else:
        tables = [shapes[f"{first.format(i)}.attention.self.relative_position_bias_table"] for i in stages]
        heads, window = [table[1] for table in tables], _window(tables[0][0])
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


def _window(distances: int) -> int:
    return (math.isqrt(distances) + 1) // 2


def _bare_options(
    stem: str, block: str, kind: str
) -> Callable[[Mapping[str, Any], Mapping[str, Any], Shapes], dict[str, Any]]:
    """Options from tensor shapes, and how images are prepared from `input` of a config.json.

    Args:
      stem: key of the stem's convolution.
      block: pattern of a block, whose groups are a stage's number and its own, both in order.
      kind: whose names they are.
    """

    def options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
        hits = (re.fullmatch(rf"({block})\.norm1\.weight", key) for key in shapes)
        blocks = {(int(hit[2]), int(hit[3])): hit[1] for hit in hits if hit}
        if len(shapes.get(stem, ())) != 4 or not blocks:
            raise InputError(
                f"expected a Swin under {kind} names ({stem}, ...), found "
                f"{', '.join(sorted(shapes)[:3]) or 'no tensor'}; name another layout"
            )
        width, channels, patch, _ = shapes[stem]
        numbers = sorted({stage for stage, _ in blocks})
        first = [blocks[number, 0] for number in numbers]
        v2 = f"{first[0]}.attn.logit_scale" in shapes
        table = "attn.logit_scale" if v2 else "attn.relative_position_bias_table"
        stated = config.get("input", {})
        side = 256 if v2 else 224
        size = pair(stated["size"], "config.json: input.size") if "size" in stated else (side, side)
        hidden = next(shapes[key][0] for name in ("0", "fc1") if (key := f"{first[0]}.mlp.{name}.weight") in shapes)
        return {
            "stage_sizes": tuple(sum(stage == number for stage, _ in blocks) for number in numbers),
            "width": width,
            "heads": tuple(shapes[f"{name}.{table}"][0 if v2 else 1] for name in first),
            "patch": patch,
            "v2": v2,
            "mlp_ratio": hidden / width,
            "qkv_bias": any(f"{first[0]}.attn.{name}" in shapes for name in ("qkv.bias", "q.bias", "q_bias")),
            **_windows(config, shapes, first, size[0] // patch, v2),
            **input_options(config),
            **image_options(preprocessor, channels, size, processor="ViT", fixed=False),
        }

    return options


def _windows(
    config: Mapping[str, Any], shapes: Shapes, first: Sequence[str], grid: int, v2: bool
) -> dict[str, tuple[int, ...]]:
    """`windows`, and of timm's V2, whose tensors don't tell them, `reaches`: both are cut to the map."""
    if not v2:
        return {"windows": tuple(_window(shapes[f"{name}.attn.relative_position_bias_table"][0]) for name in first)}
    index = [shapes.get(f"{name}.attn.{STATED[1]}") for name in first]
    if all(index):
        return {"windows": tuple((table[1] + 1) // 2 for table in index)}
    # Neither a file nor a name says them: a guess, which is reported.
    window, before, size = config.get("windows", (GUESSED, GUESSED, 256))
    windows = tuple(min(window, grid // 2**stage) for stage in range(len(first)))
    reaches = tuple(min(before, size // 4 // 2**stage) for stage in range(len(first)))
    return {"windows": windows, **({"reaches": reaches} if reaches != windows else {})}


def _torchvision_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """A config.json for `_bare_options` to read back, with the labels; no library defines this format."""
    model = port.options
    if model.epsilon != 1e-5 or model.reaches or len(set(model.windows)) > 1:
        raise InputError(
            f"torchvision's Swin has epsilon=1e-05, one window size and no reaches, found {model.epsilon}, "
            f"windows={model.windows} and reaches={model.reaches}; use the layout 'hf'"
        )
    return own_config(port, "swin", "torchvision", labels)


def _timm_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    raise InputError("timm folders can be read but not written; use --format=hf")


def _torchvision_constants(port: Port) -> dict[str, np.ndarray]:
    """What the windows determine, and torchvision keeps beside the weights."""
    found = {}
    for _, stage, i in _blocks(port):
        name, window = _torchvision_names(port).block(stage, i), port.options.windows[stage]
        found[f"{name}.attn.{STATED[0]}"] = distances(window).reshape(-1)
        if port.options.v2:
            side = 2 * window - 1
            found[f"{name}.attn.{STATED[1]}"] = places(window, window).reshape(1, side, side, 2)
    return found


def _timm_stated(hit: re.Match[str]) -> dict[str, Any]:
    """(window, window of pre-training, image of pre-training) of a V2."""
    if hit["window"] is None:
        return {}
    window, size = int(hit["to"] or hit["window"]), int(hit["size"])
    return {"windows": (window, int(hit["window"]), size)}


V1 = r"swin_(tiny|small|base|large)_patch4_window(7_224|12_384)|swin_s3_(tiny|small|base)_224"
V2 = r"swinv2_(tiny|small|base|large)_window(?P<window>\d+)(to(?P<to>\d+))?_(?P<size>\d+)(to\d+)?"
V1_NAMES = r"^(?!swinv2\.)(.*)"  # transformers 5 keeps V2's names

LAYOUTS = (
    Layout(
        name="hf",
        family="swin",
        model_types=("swin", "swinv2"),
        keys=_keys(_hf_names),
        options=_hf_options,
        config=_hf_config,
        preprocessor=image_processor,
        entry="embeddings.patch_embeddings.projection.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        # The others belong to masked image modelling.
        ignored=(rf".*\.({'|'.join(STATED)})", r"swin(v2)?\.embeddings\.mask_token", r"decoder\..*"),
        prefixes=PREFIXES,
        bare=_hf_bare,
        in_memory=(
            (rf"{V1_NAMES}\.attention\.self\.(query|key|value)\b", lambda hit: f"{hit[1]}.attention.{hit[2][0]}_proj"),
            (rf"{V1_NAMES}\.attention\.self\.(relative_position_bias)_table", r"\1.attention.\2.\2_table"),
            (rf"{V1_NAMES}\.attention\.output\.dense\b", r"\1.attention.o_proj"),
            (rf"{V1_NAMES}\.intermediate\.dense\b", r"\1.mlp.fc1"),
            (rf"{V1_NAMES}\.output\.dense\b", r"\1.mlp.fc2"),
        ),
    ),
    Layout(
        name="torchvision",
        family="swin",
        model_types=(),
        keys=_keys(_torchvision_names),
        options=_bare_options("features.0.0.weight", r"features\.(\d+)\.(\d+)", "torchvision's"),
        config=_torchvision_config,
        preprocessor=image_processor,
        entry="features.0.0.weight",
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"head\..*",),
        ignored=(rf".*\.{STATED[0]}",),
        constants=_torchvision_constants,
    ),
    Layout(
        name="timm",
        family="swin",
        model_types=(),
        keys=_keys(_timm_names),
        options=_bare_options("patch_embed.proj.weight", r"layers\.(\d+)\.blocks\.(\d+)", "timm's"),
        config=_timm_config,
        preprocessor=image_processor,
        entry="patch_embed.proj.weight",
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"head\.fc\..*",),
        guessed=("windows",),
        ignored=(rf".*\.({'|'.join(STATED)}|attn_mask)",),
        timm=Timm(
            names=f"{V1}|{V2}",
            shown="swin_SIZE_patch4_windowN_N, swin_s3_SIZE_224 and swinv2_SIZE_windowN[toN]_N[toN]",
            pool="avg",
            stated=_timm_stated,
        ),
    ),
)
