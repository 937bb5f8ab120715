"""EfficientNet in the layout of Hugging Face, which scales B0 by multipliers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.efficientnet import Options
from jaxfer.models.inverted import Shape, divisible
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import count
from jaxfer.pretrained.families import _image, _inverted
from jaxfer.pretrained.families._efficientnet import ACTIVATIONS, BASE, SCALES, published, strides
from jaxfer.pretrained.families._image import counters, expect, image_options, image_processor, labelled, pair
from jaxfer.pretrained.families._inverted import COUNTERS, needed, read_block
from jaxfer.pretrained.layout import Facts, Key, Layout, Shapes

PREFIX = "efficientnet."
# The defaults of transformers' processor of this family.
PROCESSOR = {"size": [346, 346], "resample": _image.BICUBIC, "crop_size": 289, "include_top": True}


class Config(TypedDict, total=False):
    """The fields of transformers' config.json that are read."""

    num_channels: int
    image_size: _image.Side
    width_coefficient: float
    depth_coefficient: float
    depth_divisor: int
    kernel_sizes: tuple[int, ...]
    in_channels: tuple[int, ...]
    out_channels: tuple[int, ...]
    depthwise_padding: tuple[int, ...]
    strides: tuple[int, ...]
    num_block_repeats: tuple[int, ...]
    expand_ratios: tuple[int, ...]
    squeeze_expansion_ratio: float
    hidden_act: str
    hidden_dim: int
    pooling_type: str
    batch_norm_eps: float
    dropout_rate: float
    drop_connect_rate: float


def _no_skips(options: Options) -> None:
    stage = next((i for i, shape in _firsts(options) if shape.skips), None)
    if stage is not None:
        raise InputError(
            f"transformers' EfficientNet adds nothing to the first block of a stage, where jaxfer and others add its "
            f"input: expected another width or a stride in stage {stage}; use another layout"
        )


def _firsts(options: Options) -> Iterator[tuple[int, Shape]]:
    for (stage, i, *_), shape in zip(options.places(), options.shapes, strict=True):
        if not i:
            yield stage, shape


def _keys(port: Port) -> dict[str, Key]:
    options = port.options
    what = "transformers' EfficientNet"
    needed(options, what, kinds=("inverted",) * len(options.widths), padding="end")
    if not options.squeeze:
        raise InputError(f"{what} has gates, found squeeze=0; use another layout")
    _no_skips(options)

    def block(i: int, shape: Shape) -> dict[str, tuple[str, str]]:
        place = f"encoder.blocks.{i}"
        names = {
            "expand": ("expansion.expand_conv", "expansion.expand_bn"),
            "depthwise": ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
            "project": ("projection.project_conv", "projection.project_bn"),
            "gate": ("squeeze_excite.reduce", "squeeze_excite.expand"),
        }
        return {part: (f"{place}.{first}", f"{place}.{second}") for part, (first, second) in names.items()}

    ends = {
        "stem": ("embeddings.convolution", "embeddings.batchnorm"),
        "top": ("encoder.top_conv", "encoder.top_bn"),
    }
    return _inverted.keys(port, ends, block, "classifier", PREFIX)


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; the norms' momentum in transformers (0.99) is TensorFlow's, so the default holds."""
    expect(config, pooling_type="mean")
    act = config.get("hidden_act", "swish")
    if act not in ACTIVATIONS:
        raise InputError(f"config.json: expected hidden_act of {', '.join(ACTIVATIONS)}, found {act!r}")
    width, divisor = config.get("width_coefficient", 2.0), config.get("depth_divisor", 8)
    base = BASE.widths
    widths = tuple(divisible(x * width, divisor) for x in config.get("out_channels", base))
    inputs = tuple(divisible(x * width, divisor) for x in config.get("in_channels", (BASE.stem, *base[:-1])))
    stem, top = divisible(BASE.stem * width, divisor), divisible(BASE.top * width, divisor)
    if inputs != (stem, *widths[:-1]) or config.get("hidden_dim", 2560) != top:
        raise InputError(
            f"config.json: expected in_channels that each stage before gives, {(stem, *widths[:-1])}, and hidden_dim="
            f"{top}, found {inputs} and {config.get('hidden_dim', 2560)}"
        )
    depth = config.get("depth_coefficient", 3.1)
    size = pair(config.get("image_size", 600), "config.json: image_size")
    found = {
        "stem": stem,
        "widths": widths,
        "repeats": tuple(math.ceil(depth * many) for many in config.get("num_block_repeats", BASE.repeats)),
        "strides": tuple(config.get("strides", BASE.strides)),
        "expansions": tuple(map(float, config.get("expand_ratios", BASE.expansions))),
        "windows": tuple(config.get("kernel_sizes", BASE.windows)),
        "kinds": ("inverted",) * len(widths),
        "top": top,
        "squeeze": float(config.get("squeeze_expansion_ratio", 0.25)),
        "activation": ACTIVATIONS[act],
        "output_stride": 0,
        "padding": "end",
        "symmetric_blocks": tuple(config.get("depthwise_padding") or ()),
        "dropout": float(config.get("dropout_rate", 0.5)),
        "stochastic_depth": float(config.get("drop_connect_rate", 0.2)),
        "epsilon": float(config.get("batch_norm_eps", 1e-3)),
    }
    _no_skips(Options(**found))
    prepared = image_options(
        preprocessor, config.get("num_channels", 3), size, processor="EfficientNet", fixed=False, own=PROCESSOR
    )
    return {**found, **prepared}


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    module, (height, width, channels) = port.options, port.encoding.size
    return {
        "architectures": ["EfficientNetForImageClassification"],
        "model_type": "efficientnet",
        "num_channels": channels,
        "image_size": height if height == width else [height, width],
        **_fields(module.stem, module.widths, module.top),
        "depth_coefficient": 1.0,
        "num_block_repeats": list(module.repeats),
        "strides": list(module.strides),
        "expand_ratios": [int(ratio) if ratio == int(ratio) else ratio for ratio in module.expansions],
        "kernel_sizes": list(module.windows),
        "depthwise_padding": list(module.symmetric_blocks),
        "squeeze_expansion_ratio": module.squeeze,
        "hidden_act": {"silu": "swish"}.get(module.activation, module.activation),
        "pooling_type": "mean",
        "batch_norm_eps": module.epsilon,
        "dropout_rate": module.dropout,
        "drop_connect_rate": module.stochastic_depth,
        **labelled(port, labels),
    }


def _fields(stem: int, widths: Sequence[int], top: int) -> dict[str, Any]:
    """Fields of config.json that give these channels.

    Raises:
      InputError: transformers scales stem and top by one multiplier, and none gives both.
    """
    multipliers = (*(width for width, *_ in SCALES.values()), top / BASE.top, stem / BASE.stem)
    for divisor in (8, 4, 2, 1):
        for multiplier in multipliers:
            if (stem, top) != tuple(divisible(x * multiplier, divisor) for x in (BASE.stem, BASE.top)):
                continue
            near = [round(width / multiplier) for width in widths]
            found = [
                next((x for x in (n, n - 1, n + 1) if x > 0 and divisible(x * multiplier, divisor) == width), 0)
                for n, width in zip(near, widths, strict=True)
            ]
            if all(found):
                return {
                    "width_coefficient": multiplier,
                    "depth_divisor": divisor,
                    "in_channels": [BASE.stem, *found[:-1]],
                    "out_channels": found,
                    "hidden_dim": top,
                }
    raise InputError(
        f"transformers' EfficientNet scales the stem of 32 and the top of 1280 channels by one multiplier, none gives "
        f"stem={stem}, widths={tuple(widths)} and top={top}; use another layout"
    )


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    stem, channels = shapes["embeddings.convolution.weight"][:2]
    blocks = []
    for i in range(count(shapes, r"encoder\.blocks\.(\d+)\..*")):
        place = f"encoder.blocks.{i}"
        names = ("expansion.expand_conv", "depthwise_conv.depthwise_conv", "projection.project_conv")
        blocks.append(read_block(shapes, *(f"{place}.{name}.weight" for name in names)))
    found, windows, _ = _inverted.sizes(
        shapes, "embeddings.convolution.weight", "encoder.top_conv.weight", blocks, strides(blocks), "an EfficientNet"
    )
    config = {
        "num_channels": channels,
        **_fields(stem, found["widths"], found["top"]),
        "depth_coefficient": 1.0,
        "num_block_repeats": found["repeats"],
        "strides": found["strides"],
        "expand_ratios": found["expansions"],
        "kernel_sizes": windows,
        "squeeze_expansion_ratio": shapes["encoder.blocks.0.squeeze_excite.reduce.weight"][0] / stem,
    }
    known = published(found["widths"], found["repeats"])
    config |= {"image_size": known[0], "dropout_rate": known[1]}
    left = {
        "epsilon": "batch_norm_eps",
        "symmetric_blocks": "depthwise_padding",
        "activation": "hidden_act",
        "image": "image_size",
    }
    return config, left


LAYOUT = Layout(
    name="hf",
    family="efficientnet",
    model_types=("efficientnet",),
    keys=_keys,
    options=_options,
    config=_config,
    preprocessor=image_processor,
    entry="embeddings.convolution.weight",
    facts=Config,
    processor=_image.Preprocessor,
    optional=(r"classifier\..*",),
    ignored=(COUNTERS,),
    prefixes=(PREFIX,),
    constants=lambda port: counters(_keys(port)),
    bare=_bare,
)
