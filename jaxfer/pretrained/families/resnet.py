"""ResNet in Hugging Face's layout and in torchvision's, which timm and most PyTorch code for CIFAR ResNets use too."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.models.resnet import BASE, EXPANSION, stem_widths
from jaxfer.pretrained.bare import count
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import (
    counters,
    expect,
    image_options,
    image_processor,
    input_options,
    labelled,
    own_config,
    pair,
)
from jaxfer.pretrained.layout import CONV, DENSE, Facts, Key, Layout, Shapes, Timm, Transform

PREFIX = "resnet."
GATE = Transform("gate", lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])  # a 1x1 convolution of means
ENTRY = "layer1.0.conv1.weight"
# Names of timm's models that differ from torchvision's by what tensor shapes say.
TIMM = (
    r"(se)?resnet(10|14|18|26|34|50|101|152|200|269)[cdst]?|wide_resnet(50|101)_2|(se)?resnext(26|50|101)[dt]?_\d+x\d+d"
)


class Config(TypedDict, total=False):
    """The fields of transformers' config.json that are read."""

    embedding_size: int
    hidden_sizes: tuple[int, ...]
    depths: tuple[int, ...]
    layer_type: str
    num_channels: int
    hidden_act: str
    downsample_in_first_stage: bool
    downsample_in_bottleneck: bool


def _blocks(port: Port) -> Iterator[tuple[str, int, int, int, bool]]:
    """Yields (unit, stage, index within the stage, convolutions in the branch, has a projection) for every block."""
    module, unit = port.options, 0
    convs = 3 if module.block == "bottleneck" else 2
    for stage, blocks in enumerate(module.stage_sizes):
        for i in range(blocks):
            before, after = module.features[stage : stage + 2]
            changes = i == 0 and (stage > 0 or before != after)
            yield f"block_{unit}", stage, i, convs, changes and module.shortcut != "padding"
            unit += 1


def _normed(conv: str, norm: str, conv_key: str, norm_key: str) -> dict[str, Key]:
    """Keys of a convolution and its norm."""
    return {
        f"params/{conv}/kernel": Key(f"{conv_key}.weight", CONV),
        f"params/{norm}/scale": Key(f"{norm_key}.weight"),
        f"params/{norm}/bias": Key(f"{norm_key}.bias"),
        f"batch_stats/{norm}/mean": Key(f"{norm_key}.running_mean"),
        f"batch_stats/{norm}/var": Key(f"{norm_key}.running_var"),
    }


def _head(key: str) -> dict[str, Key]:
    return {"params/head/out/kernel": Key(f"{key}.weight", DENSE), "params/head/out/bias": Key(f"{key}.bias")}


def _also(table: Mapping[str, Key], name: str, other: str) -> dict[str, Key]:
    """The same keys, with alternatives in which `other` replaces `name`."""
    return {leaf: dataclasses.replace(key, others=(key.name.replace(name, other),)) for leaf, key in table.items()}


def _hf_keys(port: Port) -> dict[str, Key]:
    module = port.options
    plain = dict(stem="imagenet", shortcut="projection", groups=1, base_width=BASE, squeeze=False)
    if odd := [f"{name}={getattr(module, name)!r}" for name, value in plain.items() if getattr(module, name) != value]:
        raise InputError(f"transformers has no ResNet with {' and '.join(odd)}; use the layout 'torchvision'")

    def layer(conv: str, norm: str, key: str) -> dict[str, Key]:
        return _normed(conv, norm, f"{PREFIX}{key}.convolution", f"{PREFIX}{key}.normalization")

    table = {**layer("stem/conv", "stem/norm", "embedder.embedder"), **_head("classifier.1")}
    for unit, stage, i, convs, projects in _blocks(port):
        block = f"encoder.stages.{stage}.layers.{i}"
        for j in range(convs):
            table |= layer(f"{unit}/conv_{j + 1}", f"{unit}/norm_{j + 1}", f"{block}.layer.{j}")
        if projects:
            table |= layer(f"{unit}/shortcut/conv", f"{unit}/shortcut/norm", f"{block}.shortcut")
    return table


def _hf_options(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The port's options; absent fields have `ResNetConfig`'s defaults."""
    expect(config, hidden_act="relu", downsample_in_first_stage=False)
    block, width = config.get("layer_type", "bottleneck"), config.get("embedding_size", 64)
    depths = tuple(config.get("depths", (3, 4, 6, 3)))
    sizes, share = config.get("hidden_sizes", (256, 512, 1024, 2048)), EXPANSION if block == "bottleneck" else 1
    if len(sizes) != len(depths) or any(size % share for size in sizes):
        raise InputError(
            f"config.json: expected hidden_sizes for the {len(depths)} stages in depths, multiples of {share} for "
            f"layer_type={block!r}, found {sizes!r}"
        )
    return {
        "stage_sizes": depths,
        "width": width,
        "widths": _widths(width, tuple(size // share for size in sizes)),
        "block": block,
        "stride_in_1x1": block == "bottleneck" and config.get("downsample_in_bottleneck", False),
        **image_options(preprocessor, config.get("num_channels", 3), (224, 224), processor="ConvNext", fixed=False),
    }


def _widths(width: int, widths: tuple[int, ...]) -> tuple[int, ...]:
    """The port's `widths`: () if they double from stage to stage, as in every network of the paper."""
    return () if widths == tuple(width * 2**stage for stage in range(len(widths))) else widths


def _hf_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    module = port.options
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_channels": port.encoding.size[2],
        "embedding_size": module.width,
        "hidden_sizes": list(module.features[1:]),
        "depths": list(module.stage_sizes),
        "layer_type": module.block,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": module.stride_in_1x1,
        **labelled(port, labels),
    }


def _torchvision_keys(port: Port) -> dict[str, Key]:
    """The key table. CIFAR code names the head `linear` and a projection `shortcut`, torchvision `fc` and `downsample`;
    both names are read, and the stem decides which is written."""
    heads, shortcuts = ("fc", "linear"), ("downsample", "shortcut")
    if port.options.stem == "cifar":
        heads, shortcuts = heads[::-1], shortcuts[::-1]
    table = {**_stem(port), **_also(_head(heads[0]), *heads)}
    for unit, stage, i, convs, projects in _blocks(port):
        block = f"layer{stage + 1}.{i}"
        for j in range(1, convs + 1):
            table |= _normed(f"{unit}/conv_{j}", f"{unit}/norm_{j}", f"{block}.conv{j}", f"{block}.bn{j}")
        for j, leaf in enumerate(("reduce", "expand") if port.options.squeeze else (), 1):
            table[f"params/{unit}/gate/{leaf}/kernel"] = Key(f"{block}.se.fc{j}.weight", GATE)
            table[f"params/{unit}/gate/{leaf}/bias"] = Key(f"{block}.se.fc{j}.bias")
        if projects:
            first = int(port.options.shortcut == "average")  # after the pool
            names = (f"{block}.{shortcuts[0]}.{first}", f"{block}.{shortcuts[0]}.{first + 1}")
            table |= _also(_normed(f"{unit}/shortcut/conv", f"{unit}/shortcut/norm", *names), *shortcuts)
    return table


def _stem(port: Port) -> dict[str, Key]:
    more = len(stem_widths(port.options.width, port.options.stem)) - 1
    table = {}
    for i in range(more + 1):
        leaf = f"_{i}" if i else ""
        conv = f"conv1.{3 * i}" if more else "conv1"  # convolution, norm, ReLU in turn; the last norm has its own name
        norm = f"conv1.{3 * i + 1}" if i < more else "bn1"
        table |= _normed(f"stem/conv{leaf}", f"stem/norm{leaf}", conv, norm)
    return table


def _torchvision_options(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The port's options from tensor shapes; image size and statistics from `input` of a config.json, if any.

    Shapes can't tell a bottleneck that strides in its 1x1 (v1) from torchvision's (v1.5), which is `guessed`.
    """
    first = shapes.get("conv1.weight", shapes.get("conv1.0.weight", ()))
    if len(first) != 4 or ENTRY not in shapes:
        raise InputError(
            f"expected a ResNet under torchvision's names (conv1.weight, {ENTRY}), found "
            f"{', '.join(sorted(shapes)[:3]) or 'no tensor'}; name another layout"
        )
    width, channels, kernel, _ = shapes.get("conv1.6.weight", first)
    if "conv1.0.weight" in shapes:
        channels = first[1]
        stem = "deep" if first[0] == shapes.get("conv1.3.weight", first)[0] else "tiered"
    else:
        stem = "cifar" if kernel == 3 else "imagenet"
    places = {tuple(map(int, hit.groups())) for key in shapes if (hit := re.match(r"layer(\d+)\.(\d+)\.", key))}
    stages = range(1, max(stage for stage, _ in places) + 1)
    projects = {hit[2] for key in shapes if (hit := re.search(r"\.(downsample|shortcut)\.([01])\.weight", key))}
    averages = any(len(shapes.get(f"layer{stage}.0.downsample.1.weight", ())) == 4 for stage in stages)
    stated = config.get("input", {})
    block = "bottleneck" if "layer1.0.conv3.weight" in shapes else "basic"
    size = (32, 32) if stem == "cifar" else (224, 224)
    size = pair(stated["size"], "config.json: input.size") if "size" in stated else size
    last, share = ("conv3", EXPANSION) if block == "bottleneck" else ("conv1", 1)
    widths = tuple(shapes.get(f"layer{stage}.0.{last}.weight", (0,))[0] // share for stage in stages)
    return {
        "stage_sizes": tuple(sum(place[0] == stage for place in places) for stage in stages),
        "width": width,
        "widths": _widths(width, widths),
        "block": block,
        **({"stride_in_1x1": False, **_inner(shapes, widths)} if block == "bottleneck" else {}),
        **({"squeeze": True} if "layer1.0.se.fc1.weight" in shapes else {}),
        "stem": stem,
        "shortcut": "average" if averages else "projection" if projects else "padding",
        **input_options(config),
        **image_options(preprocessor, channels, size, processor="ViT", fixed=False),
    }


def _inner(shapes: Shapes, widths: Sequence[int]) -> dict[str, int]:
    """`groups` and `base_width` of a bottleneck's 3x3 convolutions; {} for what a plain ResNet has."""
    found = [shapes.get(f"layer{stage}.0.conv2.weight", (0, 1)) for stage in range(1, len(widths) + 1)]
    groups = max(1, found[0][0] // found[0][1])
    base = max(-(-BASE * shape[0] // (groups * max(width, 1))) for shape, width in zip(found, widths, strict=True))
    return {**({"groups": groups} if groups > 1 else {}), **({"base_width": base} if base not in (0, BASE) else {})}


def _torchvision_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """A config.json for `_torchvision_options` to read back, with the labels; no library defines this format."""
    return own_config(port, "resnet", "torchvision", labels)


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels = shapes["embedder.embedder.convolution.weight"][:2]
    stages = range(count(shapes, r"encoder\.stages\.(\d+)\..*"))
    bottleneck = "encoder.stages.0.layers.0.layer.2.convolution.weight" in shapes
    last = 2 if bottleneck else 1
    config = {
        "embedding_size": width,
        "num_channels": channels,
        "depths": [count(shapes, rf"encoder\.stages\.{i}\.layers\.(\d+)\..*") for i in stages],
        "hidden_sizes": [shapes[f"encoder.stages.{i}.layers.0.layer.{last}.convolution.weight"][0] for i in stages],
        "layer_type": "bottleneck" if bottleneck else "basic",
    }
    strides = {"stride_in_1x1": "downsample_in_bottleneck"} if bottleneck else {}
    return config, {**strides, "image": "image_size"}


LAYOUTS = (
    Layout(
        name="hf",
        family="resnet",
        model_types=("resnet",),
        keys=_hf_keys,
        options=_hf_options,
        config=_hf_config,
        preprocessor=image_processor,
        entry="embedder.embedder.convolution.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\.1\..*",),
        ignored=(r".*\.num_batches_tracked",),
        prefixes=(PREFIX,),
        constants=lambda port: counters(_hf_keys(port)),
        bare=_bare,
    ),
    Layout(
        name="torchvision",
        family="resnet",
        model_types=(),
        keys=_torchvision_keys,
        options=_torchvision_options,
        config=_torchvision_config,
        preprocessor=image_processor,
        entry=ENTRY,
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"(fc|linear)\..*",),
        ignored=(r"(.*\.)?num_batches_tracked",),
        guessed=("stride_in_1x1",),
        constants=lambda port: counters(_torchvision_keys(port)),
        timm=Timm(
            names=TIMM,
            shown="resnetN (and c, d, s, t), resnextN_GxWd (and d, t), both also as seresn..., wide_resnetN_2",
            pool="avg",
        ),
    ),
)
