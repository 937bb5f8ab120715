"""What the image families' config.json and preprocessor_config.json have in common, read and written.

transformers' processors resize, crop the centre, scale by `rescale_factor` and normalise. A port does the same from its
`image`, `mean`, `std` and `interpolation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.errors import InputError
from jaxfer.models.port import Port

# By Pillow's number, which is what `resample` holds.
INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
BILINEAR, BICUBIC = 2, 3


def image_options(
    preprocessor: Mapping[str, Any], channels: int, size: tuple[int, int], *, resample: int, fixed: bool
) -> dict[str, Any]:
    """`image`, and where there is a preprocessor `mean`, `std`, `interpolation` and `resize`.

    Args:
      preprocessor: preprocessor_config.json, or {}: then the port's own defaults stand.
      channels: of the model's input.
      size: (height, width) that config.json names, or the family's own.
      resample: the interpolation of the family's processor where the file names none.
      fixed: the model takes `size` and no other, so the processor must yield it; else the processor decides.

    Raises:
      InputError: a size or an interpolation that there isn't, or a processor that yields another than the model takes.
    """
    if not preprocessor:
        return {"image": (*size, channels)}
    found = target(preprocessor, size)
    if fixed and found != size:
        raise InputError(
            f"preprocessor_config.json yields images of {found}, config.json expects {size}; correct one of them"
        )
    number = preprocessor.get("resample", resample)
    if number not in range(len(INTERPOLATIONS)):
        raise InputError(f"preprocessor_config.json: expected resample from 0 to 5, Pillow's numbers, found {number!r}")
    mean, std = statistics(preprocessor, channels)
    return {
        "image": (*found, channels),
        "mean": mean,
        "std": std,
        "interpolation": INTERPOLATIONS[number],
        "resize": resized(preprocessor, found),
    }


def resized(preprocessor: Mapping[str, Any], crop: tuple[int, int]) -> tuple[int, ...]:
    """What is resized to before the centre is cut out: () for the size itself, (shorter edge,) or (height, width).

    ConvNext's processor, which ResNets use too, cuts `crop_pct` of the shorter edge, and from 384 on nothing.
    """
    size = preprocessor.get("size")
    if size is None or not preprocessor.get("do_resize", True):
        return ()
    kind = preprocessor.get("image_processor_type", preprocessor.get("feature_extractor_type", ""))
    if "crop_pct" in preprocessor or kind.startswith("ConvNext"):
        edge = pair(size, "size")[0]
        return (int(edge / (preprocessor.get("crop_pct") or 224 / 256)),) if edge < 384 else ()
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return (size["shortest_edge"],)
    return () if pair(size, "size") == crop else pair(size, "size")


def target(preprocessor: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of what a processor yields; where it keeps an image's own size, `size`."""
    if preprocessor.get("do_center_crop") and "crop_size" in preprocessor:
        return pair(preprocessor["crop_size"], "crop_size")
    if preprocessor.get("do_resize", True) and "size" in preprocessor:
        return pair(preprocessor["size"], "size")
    return size


def pair(value: Any, name: str) -> tuple[int, int]:
    """(height, width) from 224, [224, 224], {"height": 224, "width": 224} or {"shortest_edge": 224}."""
    if isinstance(value, Mapping):
        edge = value.get("shortest_edge")
        value = [value.get("height", edge), value.get("width", edge)]
    sides = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"{name} must be a side or a height and a width in pixels, found {value!r}")
    return sides


def statistics(preprocessor: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of pixels in [0, 1], whatever scale the processor brings them to."""
    scale = 255 * preprocessor.get("rescale_factor", 1 / 255) if preprocessor.get("do_rescale", True) else 255
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    if not preprocessor.get("do_normalize", True):
        return (0.0,), (1 / scale,)
    found = []
    for name in ("image_mean", "image_std"):
        values = preprocessor.get(name, 0.5)
        values = (values,) if isinstance(values, int | float) else tuple(values)
        if len(values) not in (1, channels):
            raise InputError(f"preprocessor_config.json: expected {channels} values of {name}, found {values!r}")
        values = values[:1] if len(set(values)) == 1 else values  # as the ports' defaults are written
        found.append(tuple(float(value) / scale for value in values))
    return found[0], found[1]


def image_processor(port: Port) -> dict[str, Any]:
    """preprocessor_config.json with which transformers prepares images as the port does."""
    spec = port.preprocessing
    height, width, channels = spec.size
    rule = spec.resize or (height, width)
    size = {"shortest_edge": rule[0]} if len(rule) == 1 else {"height": rule[0], "width": rule[1]}
    mean, std = (list(values) * (1 if len(values) == channels else channels) for values in (spec.mean, spec.std))
    return {
        "image_processor_type": "ViTImageProcessor",  # the plain one: resize, rescale, normalise
        "do_resize": True,
        "size": size,
        "do_center_crop": bool(spec.resize),
        "crop_size": {"height": height, "width": width},
        "resample": INTERPOLATIONS.index(spec.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }


def labelled(port: Port, labels: Sequence[str]) -> dict[str, Any]:
    """The part of config.json that names the outputs; without labels (regression) they are LABEL_0, ..."""
    names = list(labels) or [f"LABEL_{i}" for i in range(port.module.outputs)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "dtype": "float32",
        **({} if labels else {"problem_type": "regression"}),
    }


def expect(config: Mapping[str, Any], **values: Any) -> None:
    """`InputError` unless each field of config.json has its value or is absent."""
    for name, value in values.items():
        if config.get(name, value) != value:
            raise InputError(
                f"config.json: {name} is {config[name]!r}; jaxfer reads this family with {name}={value!r} only"
            )
