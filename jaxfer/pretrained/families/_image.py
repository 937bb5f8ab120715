"""Read and write the parts of config.json and preprocessor_config.json that the image families share.

transformers' processors resize, crop the centre, scale by `rescale_factor` and normalise. A port does the same from its
`image`, `mean`, `std`, `interpolation` and `resize`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxfer.data.encodings.pixels import INTERPOLATIONS
from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.layout import Key

Side = int | tuple[int, ...] | Mapping[str, int | None] | None


class Preprocessor(TypedDict, total=False):
    """The fields of preprocessor_config.json that are read; null means an absent field."""

    image_processor_type: str | None
    feature_extractor_type: str | None
    do_resize: bool | None
    size: Side
    resample: int | None
    do_center_crop: bool | None
    crop_size: Side
    crop_pct: float | None
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: float | tuple[float, ...] | None
    image_std: float | tuple[float, ...] | None
    rescale_offset: bool | None
    include_top: bool | None


class _Input(TypedDict, total=False):
    size: Side
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize: tuple[int, ...]


class OwnConfig(TypedDict, total=False):
    """The field that is read of the config.json that `own_config` writes."""

    input: _Input


RESAMPLES = {int(how): name for name, how in INTERPOLATIONS.items()}  # Pillow's numbers
BILINEAR, BICUBIC = 2, 3

# Defaults of transformers' processors for absent fields, by class (`ViTImageProcessor`, ...).
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {"size": [224, 224], "resample": BILINEAR},
    "DeiT": {"size": [256, 256], "resample": BICUBIC, "do_center_crop": True, "crop_size": 224},
    "ConvNext": {"size": {"shortest_edge": 384}, "resample": BICUBIC, "crop_pct": 224 / 256},
    "MobileNetV1": {"size": {"shortest_edge": 256}, "resample": BILINEAR, "do_center_crop": True, "crop_size": 224},
}
WARPED = 384  # ConvNext's processor does not crop from this edge on


def image_options(
    preprocessor: Mapping[str, Any],
    channels: int,
    size: tuple[int, int],
    *,
    processor: str,
    fixed: bool,
    own: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The options `image` and, with a preprocessor, `mean`, `std`, `interpolation` and `resize`.

    Args:
      preprocessor: preprocessor_config.json, or {} for the port's defaults.
      channels: channels of the model's input.
      size: (height, width) from config.json, or the family's default.
      processor: the family's processor, for a file that does not name one.
      fixed: whether the model takes only `size`, so the processor must yield it; else the processor decides.
      own: defaults of the family's processor, where no other family has it.

    Raises:
      InputError: an unsupported processor, size or interpolation, or a processor whose size the model does not take.
    """
    if not preprocessor:
        return {"image": (*size, channels)}
    name = preprocessor.get("image_processor_type") or preprocessor.get("feature_extractor_type") or processor
    kind = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", str(name))
    known = PROCESSORS if own is None else {**PROCESSORS, processor: own}
    if kind not in known:
        raise InputError(
            f"preprocessor_config.json is for {name}; jaxfer reads those for {', '.join(sorted(known))}: if one "
            "of them does the same, set image_processor_type to its name"
        )
    stated = {**known[kind], **{field: value for field, value in preprocessor.items() if value is not None}}
    output_size, resize = geometry(stated, kind, size, by_edge=isinstance(known[kind]["size"], Mapping))
    if fixed and output_size != size:
        raise InputError(
            f"preprocessor_config.json yields images of {output_size}, config.json expects {size}; correct one of them"
        )
    resample = stated["resample"]
    if not isinstance(resample, int) or resample not in RESAMPLES:
        raise InputError(
            f"preprocessor_config.json: expected resample from 0 to 5, Pillow's numbers, found {resample!r}"
        )
    mean, std = statistics(stated, channels)
    return {
        "image": (*output_size, channels),
        "mean": mean,
        "std": std,
        "interpolation": RESAMPLES[resample],
        "resize": resize,
    }


def geometry(
    stated: Mapping[str, Any], kind: str, size: tuple[int, int], *, by_edge: bool
) -> tuple[tuple[int, int], tuple[int, ...]]:
    """(output size, size before the centre crop): a port's `image` and `resize`.

    ConvNext's processor, which ResNets use too, crops to `crop_pct` of the shorter edge, and not at all from 384 on. A
    processor without resizing expects images of the model's `size`. `by_edge`: whether a single number means the
    shorter edge, not both sides.
    """
    file, cuts, edge = "preprocessor_config.json", stated.get("do_center_crop", False), stated["size"]
    if not stated.get("do_resize", True):
        if cuts:
            raise InputError(
                f"{file} center-crops images without resizing them (do_resize=false), which is not supported"
            )
        return size, ()
    edge = {"shortest_edge": edge} if isinstance(edge, int) and by_edge else edge
    by_edge, sides = isinstance(edge, Mapping) and "shortest_edge" in edge, pair(edge, f"{file}: size")
    if kind == "ConvNext":
        share = stated["crop_pct"]
        if cuts or not by_edge or not 0 < share <= 1:
            raise InputError(
                f"{file}: expected size={{'shortest_edge': N}}, crop_pct in (0, 1] and no do_center_crop for a "
                f"ConvNext processor, found size={edge!r}, crop_pct={share!r}, do_center_crop={cuts!r}"
            )
        return sides, (int(sides[0] / share),) if sides[0] < WARPED else ()
    if cuts:
        crop, resize = pair(stated.get("crop_size"), f"{file}: crop_size"), sides[:1] if by_edge else sides
        return crop, () if resize == crop else resize
    if by_edge:
        raise InputError(
            f"{file} gives images of many shapes (size={edge!r}, no centre crop); add do_center_crop and crop_size"
        )
    return sides, ()


def input_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """`mean`, `std`, `interpolation` and `resize` from the field `input` of a config.json."""
    stated, options = config.get("input") or {}, {}
    for name, kind in (("mean", float), ("std", float), ("resize", int)):
        if name in stated:
            options[name] = tuple(map(kind, stated[name]))
    return {**options, **({"interpolation": stated["interpolation"]} if "interpolation" in stated else {})}


def pair(value: Any, name: str) -> tuple[int, int]:
    """(height, width) from 224, [224, 224], {"height": 224, "width": 224} or {"shortest_edge": 224}."""
    sides = value
    if isinstance(value, Mapping):
        keys = ("shortest_edge",) * 2 if set(value) == {"shortest_edge"} else ("height", "width")
        sides = [value[key] for key in keys] if set(value) == set(keys) else ()
    sides = (sides, sides) if isinstance(sides, int) else tuple(sides) if isinstance(sides, list | tuple) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"{name} must be a side or a height and a width in pixels, found {value!r}")
    return sides


def statistics(preprocessor: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) for pixels in [0, 1], whatever the processor's scale.

    EfficientNet's subtracts 1 after scaling for `rescale_offset`, and divides by `image_std` twice for `include_top`.
    """
    scale = 255 * preprocessor.get("rescale_factor", 1 / 255) if preprocessor.get("do_rescale", True) else 255
    if not scale > 0:
        raise InputError(f"preprocessor_config.json: expected a positive rescale_factor, found {scale / 255}")
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    less = 1.0 if preprocessor.get("rescale_offset") and preprocessor.get("do_rescale", True) else 0.0
    again = preprocessor.get("include_top", False)
    if not preprocessor.get("do_normalize", True):
        if again:
            raise InputError("preprocessor_config.json: expected do_normalize=true with include_top, found false")
        return (less / scale,), (1 / scale,)
    scaled = []
    for name in ("image_mean", "image_std"):
        values = preprocessor.get(name, 0.5)
        values = (values,) if isinstance(values, int | float) else tuple(values)
        if len(values) not in (1, channels):
            raise InputError(f"preprocessor_config.json: expected {channels} values of {name}, found {values!r}")
        values = values[:1] if len(set(values)) == 1 else values  # one value, like the ports' defaults
        scaled.append(tuple(map(float, values)))
    mean, std = scaled
    return tuple((less + x) / scale for x in mean), tuple((x * x if again else x) / scale for x in std)


def image_processor(port: Port) -> dict[str, Any]:
    """preprocessor_config.json that makes transformers prepare images as the port does."""
    spec = port.encoding
    height, width, channels = spec.size
    rule = spec.resize or (height, width)
    size = {"shortest_edge": rule[0]} if len(rule) == 1 else {"height": rule[0], "width": rule[1]}
    mean, std = (list(values) * (1 if len(values) == channels else channels) for values in (spec.mean, spec.std))
    # Pick the class that resizes this way: in transformers 4, ViT's does not crop and DeiT's has no shorter edge.
    kind = ("ViT", "MobileNetV1", "DeiT")[len(spec.resize)]
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_resize": True,
        "size": size,
        "do_center_crop": bool(spec.resize),
        "crop_size": {"height": height, "width": width},
        "resample": int(INTERPOLATIONS[spec.interpolation]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }


def labelled(port: Port, labels: Sequence[str]) -> dict[str, Any]:
    """Fields of config.json that name the outputs: LABEL_0, ... without labels (regression)."""
    names = list(labels) or [f"LABEL_{i}" for i in range(port.module.outputs)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "dtype": "float32",
        **({} if labels else {"problem_type": "regression"}),
    }


def own_config(port: Port, family: str, layout: str, labels: Sequence[str]) -> dict[str, Any]:
    """A config.json that names the layout and how images are prepared, for a format that has none of its own."""
    spec = port.encoding
    image = {
        "size": list(spec.size[:2]),
        "mean": list(spec.mean),
        "std": list(spec.std),
        "interpolation": spec.interpolation,
        "resize": list(spec.resize),
    }
    return {"family": family, "key_layout": layout, "input": image, **labelled(port, labels)}


def counters(table: Mapping[str, Key]) -> dict[str, np.ndarray]:
    """PyTorch's batch counter for every norm of a table: unused, but required by its loaders."""
    means = (key.name for key in table.values() if key.name.endswith("running_mean"))
    return {name.replace("running_mean", "num_batches_tracked"): np.int64(0) for name in means}


def expect(config: Mapping[str, Any], **values: Any) -> None:
    """Raises `InputError` unless each field of config.json is absent or has the required value."""
    for name, value in values.items():
        if config.get(name, value) != value:
            raise InputError(
                f"config.json: {name} is {config[name]!r}; jaxfer reads this family with {name}={value!r} only"
            )
