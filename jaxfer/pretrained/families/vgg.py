"""VGG in torchvision's layout, whose keys number the layers of a list; AlexNet's is alike."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from jaxfer.pretrained.layout import CONV, DENSE, Key, Layout, Shapes, Transform


def spread(side: int) -> Transform:
    """The layer that reads a feature map: [out, c * side * side] <-> [side, side, c, out]."""
    return Transform(
        "spread",
        lambda x: x.reshape(len(x), -1, side, side).transpose(2, 3, 1, 0),
        lambda x: x.transpose(3, 2, 0, 1).reshape(x.shape[-1], -1),
    )


def keys(places: Sequence[int], norm: bool, dense: Sequence[int], side: int) -> dict[str, Key]:
    """The key table.

    Args:
      places: the number of each convolution in `features`.
      norm: whether the next number is of its norm.
      dense: the numbers of the three layers in `classifier`.
      side: of the grid that the first of these reads.
    """
    table: dict[str, Key] = {}

    def layer(path: str, name: str, turn: Transform) -> None:
        table[f"params/{path}/kernel"] = Key(f"{name}.weight", turn)
        table[f"params/{path}/bias"] = Key(f"{name}.bias")

    units = ("stem", *(f"block_{i}" for i in range(len(places) + 1)))
    for unit, place in zip(units, places, strict=False):
        layer(f"{unit}/conv", f"features.{place}", CONV)
        if norm:
            name = f"features.{place + 1}"
            table[f"params/{unit}/norm/scale"] = Key(f"{name}.weight")
            table[f"params/{unit}/norm/bias"] = Key(f"{name}.bias")
            for leaf in ("mean", "var"):
                table[f"batch_stats/{unit}/norm/{leaf}"] = Key(f"{name}.running_{leaf}")
    paths = (f"{units[-2]}/spread", f"{units[-1]}/dense", "head/out")
    for path, place, turn in zip(paths, dense, (spread(side), DENSE, DENSE), strict=True):
        layer(path, f"classifier.{place}", turn)
    return table


def convolutions(shapes: Shapes) -> dict[int, tuple[int, ...]]:
    """{number in `features`: shape of the kernel}, in order."""
    hits = ((re.fullmatch(r"features\.(\d+)\.weight", key), shape) for key, shape in shapes.items())
    return dict(sorted((int(hit[1]), shape) for hit, shape in hits if hit and len(shape) == 4))


def tail(shapes: Shapes, first: str, width: int, name: str) -> dict[str, int]:
    """`places` and `hidden` from the shape of the first dense layer, which reads `width` channels."""
    if len(shapes.get(first, ())) != 2:
        raise InputError(f"expected {name} under torchvision's names with {first}, found none; name another layout")
    hidden, read = shapes[first]
    side = math.isqrt(read // width)
    if side * side * width != read:
        raise InputError(f"{first} reads {read} values, which are no square of places with {width} channels")
    return {"places": side, "hidden": hidden}


def images(config: Mapping[str, Any], preprocessor: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """How images are prepared, by `input` of a config.json, if any."""
    stated = config.get("input", {})
    size = pair(stated["size"], "config.json: input.size") if "size" in stated else (224, 224)
    return {
        **input_options(config),
        **image_options(preprocessor, channels, size, processor="ViT", fixed=False),
    }


def written(family: str) -> Callable[[Port, Mapping[str, Any], Sequence[str]], dict[str, Any]]:
    """config.json for `images` to read back, with the labels; no library defines this format."""

    def config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        return own_config(port, family, "torchvision", labels)

    return config


def _places(port: Port) -> Iterator[int]:
    """The number of each convolution: beside it are a norm, a ReLU and, at the end of a stage, a pool."""
    place = 0
    for convs in port.options.stage_sizes:
        for _ in range(convs):
            yield place
            place += 3 if port.options.norm else 2
        place += 1


def _keys(port: Port) -> dict[str, Key]:
    return keys(list(_places(port)), port.options.norm, (0, 3, 6), port.options.places)


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes; the gaps between the numbers of convolutions say where stages end."""
    convs = convolutions(shapes)
    if 0 not in convs or any(shape[2:] != (3, 3) for shape in convs.values()):
        raise InputError(
            f"expected a VGG under torchvision's names (features.0.weight of 3x3, ...), found "
            f"{', '.join(sorted(shapes)[:3]) or 'no tensor'}; name another layout"
        )
    norm = "features.1.running_mean" in shapes
    sizes, widths, before = [], [], None
    for place, shape in convs.items():
        if before is None or place - before > (3 if norm else 2):
            sizes.append(0)
            widths.append(shape[0])
        sizes[-1] += 1
        before = place
    return {
        "stage_sizes": tuple(sizes),
        "widths": tuple(widths),
        "norm": norm,
        **tail(shapes, "classifier.0.weight", widths[-1], "a VGG"),
        **images(config, preprocessor, convs[0][1]),
    }


LAYOUTS = (
    Layout(
        name="torchvision",
        family="vgg",
        model_types=(),
        keys=_keys,
        options=_options,
        config=written("vgg"),
        preprocessor=image_processor,
        entry="features.0.weight",
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"classifier\.6\..*",),
        ignored=(r"(.*\.)?num_batches_tracked",),
        constants=lambda port: counters(_keys(port)),
    ),
)
