"""AlexNet in torchvision's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxfer.errors import InputError
from jaxfer.models.alexnet import CONVS
from jaxfer.models.port import Port
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import image_processor
from jaxfer.pretrained.families.vgg import convolutions, images, keys, tail, written
from jaxfer.pretrained.layout import Key, Layout, Shapes

PLACES = (0, 3, 6, 8, 10)  # of the convolutions in `features`


def _keys(port: Port) -> dict[str, Key]:
    return keys(PLACES, False, (1, 4, 6), port.options.places)


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes."""
    convs = convolutions(shapes)
    if tuple(convs) != PLACES or any(
        shape[2:] != (side, side) for shape, (side, *_) in zip(convs.values(), CONVS, strict=True)
    ):
        raise InputError(
            f"expected an AlexNet under torchvision's names (features.0.weight of 11x11, ...), found "
            f"{', '.join(sorted(shapes)[:3]) or 'no tensor'}; name another layout"
        )
    widths = tuple(shape[0] for shape in convs.values())
    return {
        "widths": widths,
        **tail(shapes, "classifier.1.weight", widths[-1], "an AlexNet"),
        **images(config, preprocessor, convs[0][1]),
    }


LAYOUTS = (
    Layout(
        name="torchvision",
        family="alexnet",
        model_types=(),
        keys=_keys,
        options=_options,
        config=written("alexnet"),
        preprocessor=image_processor,
        entry="features.0.weight",
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"classifier\.6\..*",),
    ),
)
