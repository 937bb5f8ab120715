"""DenseNet in torchvision's layout, which is timm's too; published files have `norm.1` where the code has `norm1`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import (
    counters,
    image_options,
    image_processor,
    input_options,
    own_config,
    pair,
)
from jaxfer.pretrained.layout import CONV, DENSE, Key, Layout, Shapes, Timm

STEM = "features.conv0.weight"
LAYER = r"features\.denseblock(\d+)\.denselayer(\d+)\.conv\.?1\.weight"


def _keys(port: Port) -> dict[str, Key]:
    table = {"params/head/out/kernel": Key("classifier.weight", DENSE), "params/head/out/bias": Key("classifier.bias")}

    def layer(unit: str, number: str, place: str, *, conv: bool = True) -> None:
        """The convolution and the norm of a unit; `number` is of both at a place where there are several."""

        def key(kind: str, leaf: str, **how: Any) -> Key:
            others = (f"{place}.{kind}.{number}.{leaf}",) if ".denselayer" in place else ()
            return Key(f"{place}.{kind}{number}.{leaf}", others=others, **how)

        norm = f"{unit}/norm" + (f"_{number}" if ".denselayer" in place else "")
        if conv:
            table[f"params/{norm.replace('/norm', '/conv')}/kernel"] = key("conv", "weight", transform=CONV)
        table[f"params/{norm}/scale"], table[f"params/{norm}/bias"] = key("norm", "weight"), key("norm", "bias")
        for name in ("mean", "var"):
            table[f"batch_stats/{norm}/{name}"] = key("norm", f"running_{name}")

    layer("stem", "0", "features")
    places = [(stage, i) for stage, layers in enumerate(port.options.stage_sizes, 1) for i in range(1, layers + 1)]
    for n, (stage, i) in enumerate(places):
        if stage > 1 and i == 1:
            layer(f"block_{n}/transition", "", f"features.transition{stage - 1}")
        for number in "12":
            layer(f"block_{n}", number, f"features.denseblock{stage}.denselayer{i}")
    layer("head", "5", "features", conv=False)
    return table


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes; image size and statistics from `input` of a config.json, if any."""
    layers = {tuple(map(int, hit.groups())): shapes[key] for key in shapes if (hit := re.fullmatch(LAYER, key))}
    if len(shapes.get(STEM, ())) != 4 or (1, 1) not in layers:
        raise InputError(
            f"expected a DenseNet under torchvision's names ({STEM}, ...), found "
            f"{', '.join(sorted(shapes)[:3]) or 'no tensor'}; name another layout"
        )
    if "features.conv1.weight" in shapes:
        raise InputError("the DenseNet has a stem of several convolutions, which is not supported")
    width, channels = shapes[STEM][:2]
    second = (f"features.denseblock1.denselayer1.conv{dot}2.weight" for dot in ("", "."))
    growth = next(shapes[key][0] for key in second if key in shapes)
    stated = config.get("input", {})
    size = pair(stated["size"], "config.json: input.size") if "size" in stated else (224, 224)
    return {
        "stage_sizes": tuple(sum(stage == n for stage, _ in layers) for n in sorted({stage for stage, _ in layers})),
        "growth": growth,
        "width": width,
        "bottleneck": layers[1, 1][0] // growth,
        **input_options(config),
        **image_options(preprocessor, channels, size, processor="ViT", fixed=False),
    }


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """A config.json for `_options` to read back, with the labels; no library defines this format."""
    return own_config(port, "densenet", "torchvision", labels)


LAYOUTS = (
    Layout(
        name="torchvision",
        family="densenet",
        model_types=(),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=image_processor,
        entry=STEM,
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        ignored=(r"(.*\.)?num_batches_tracked",),
        constants=lambda port: counters(_keys(port)),
        timm=Timm(names=r"densenet(121|161|169|201)", shown="densenetN (121, 161, 169, 201)", pool="avg"),
    ),
)
