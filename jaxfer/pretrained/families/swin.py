"""Swin and Swin V2 in Hugging Face's layout (`_swin_hf.py`), in torchvision's and in timm's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.models.swin import distances, places
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import image_options, image_processor, input_options, own_config, pair
from jaxfer.pretrained.families._swin import STATED, Names, blocks, keys_of, window_of
from jaxfer.pretrained.families._swin_hf import HF
from jaxfer.pretrained.layout import Layout, Shapes, Timm

GUESSED = 8  # places of a side of a V2's windows, where nothing states them
V1 = r"swin_(tiny|small|base|large)_patch4_window(7_224|12_384)|swin_s3_(tiny|small|base)_224"
V2 = r"swinv2_(tiny|small|base|large)_window(?P<window>\d+)(to(?P<to>\d+))?_(?P<size>\d+)(to\d+)?"


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
        found = {(int(hit[2]), int(hit[3])): hit[1] for hit in hits if hit}
        if len(shapes.get(stem, ())) != 4 or not found:
            raise InputError(
                f"expected a Swin under {kind} names ({stem}, ...), found "
                f"{', '.join(sorted(shapes)[:3]) or 'no tensor'}; name another layout"
            )
        width, channels, patch, _ = shapes[stem]
        numbers = sorted({stage for stage, _ in found})
        first = [found[number, 0] for number in numbers]
        v2 = f"{first[0]}.attn.logit_scale" in shapes
        table = "attn.logit_scale" if v2 else "attn.relative_position_bias_table"
        stated = config.get("input", {})
        side = 256 if v2 else 224
        size = pair(stated["size"], "config.json: input.size") if "size" in stated else (side, side)
        hidden = next(shapes[key][0] for name in ("0", "fc1") if (key := f"{first[0]}.mlp.{name}.weight") in shapes)
        return {
            "stage_sizes": tuple(sum(stage == number for stage, _ in found) for number in numbers),
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
        return {"windows": tuple(window_of(shapes[f"{name}.attn.relative_position_bias_table"][0]) for name in first)}
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
    for _, stage, i in blocks(port):
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


LAYOUTS = (
    HF,
    Layout(
        name="torchvision",
        family="swin",
        model_types=(),
        keys=keys_of(_torchvision_names),
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
        keys=keys_of(_timm_names),
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
