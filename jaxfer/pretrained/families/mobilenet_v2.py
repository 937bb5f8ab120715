"""MobileNetV2 in the layouts of Hugging Face, torchvision and timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.chain import IMAGENET_MEAN, IMAGENET_STD
from jaxfer.models.inverted import Shape, divisible
from jaxfer.models.mobilenet_v2 import Options
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import count
from jaxfer.pretrained.families import _image, _inverted
from jaxfer.pretrained.families._image import (
    counters,
    expect,
    image_options,
    image_processor,
    labelled,
    own_config,
    pair,
)
from jaxfer.pretrained.families._inverted import COUNTERS, needed, read_block
from jaxfer.pretrained.layout import Facts, Key, Layout, Shapes, Timm

PREFIX = "mobilenet_v2."
# transformers' default, found in most configs, is TensorFlow's keep probability, which transformers drops by.
TF_KEPT, TF_DROPPED = 0.8, 0.2
STAGES = ("repeats", "strides", "expansions")
PUBLISHED = Options()
MULTIPLIERS = (1.0, 0.75, 0.5, 0.35, 1.3, 1.4)
# The defaults of transformers' processor of this family, which no other has.
PROCESSOR = {"size": {"shortest_edge": 256}, "resample": _image.BILINEAR, "do_center_crop": True, "crop_size": 224}
PREPARED = {"size": (224, 224), "resize": (256,), "mean": IMAGENET_MEAN, "std": IMAGENET_STD}


class Config(TypedDict, total=False):
    """The fields of transformers' config.json that are read."""

    depth_multiplier: float
    depth_divisible_by: int
    min_depth: int
    expand_ratio: float
    output_stride: int
    first_layer_is_expansion: bool
    finegrained_output: bool
    tf_padding: bool
    image_size: _image.Side
    num_channels: int
    hidden_act: str
    layer_norm_eps: float
    classifier_dropout_prob: float


def _hf_keys(port: Port) -> dict[str, Key]:
    options = port.options
    ratios = (1.0, *[options.expansions[-1]] * 6)
    _first(options.stem, options.widths)
    needed(
        options,
        "transformers' MobileNetV2",
        repeats=PUBLISHED.repeats,
        strides=PUBLISHED.strides,
        expansions=ratios,
    )
    if options.padding == "end":
        raise InputError("transformers' MobileNetV2 has padding='same' or 'symmetric', found 'end'; use another layout")

    def layer(name: str) -> tuple[str, str]:
        return f"{name}.convolution", f"{name}.normalization"

    def block(i: int, shape: Shape) -> dict[str, tuple[str, str]]:
        place = f"layer.{i - 1}" if i else "conv_stem"
        parts = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
        return {part: layer(f"{place}.{name}") for part, name in parts.items()}

    ends = {"stem": layer("conv_stem.first_conv"), "top": layer("conv_1x1")}
    return _inverted.keys(port, ends, block, "classifier", PREFIX)


def _thinned(config: Mapping[str, Any]) -> tuple[int, tuple[int, ...], int]:
    """(stem, widths, top) of transformers' fields."""
    multiplier = config.get("depth_multiplier", 1.0)
    divisor, least = config.get("depth_divisible_by", 8), config.get("min_depth", 8)
    stem, *widths, top = (
        divisible(round(channels * multiplier), divisor, least)
        for channels in (PUBLISHED.stem, *PUBLISHED.widths, PUBLISHED.top)
    )
    whole = config.get("finegrained_output", True) and multiplier < 1
    return stem, tuple(widths), PUBLISHED.top if whole else top


def _fields(stem: int, widths: tuple[int, ...], top: int) -> dict[str, Any]:
    """Fields of config.json that give these channels; `_thinned` read backwards.

    Raises:
      InputError: no multiplier does.
    """
    near = (top / PUBLISHED.top, widths[-1] / PUBLISHED.widths[-1], *(i / 100 for i in range(1, 400)))
    for divisor in (8, 4, 2, 1):
        for multiplier in (*MULTIPLIERS, *near):
            for least in (8, divisor, min(widths)):
                for fine in (True, False):
                    fields = {
                        "depth_multiplier": multiplier,
                        "depth_divisible_by": divisor,
                        "min_depth": least,
                        "finegrained_output": fine,
                    }
                    if _thinned(fields) == (stem, widths, top):
                        return fields
    raise InputError(
        f"transformers' MobileNetV2 thins all layers by one multiplier, none gives stem={stem}, widths={widths} and "
        f"top={top}; use another layout"
    )


def _first(stem: int, widths: tuple[int, ...]) -> None:
    if stem == widths[0]:
        raise InputError(
            f"transformers' MobileNetV2 adds nothing to its first block, where jaxfer and others add its input: "
            f"expected a stem and a first width that differ, found {stem}; use another layout"
        )


def _hf_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; no file states the norms' momentum (0.997 in transformers' code), so the default holds."""
    expect(config, hidden_act="relu6")
    ratio, limit = float(config.get("expand_ratio", 6.0)), config.get("output_stride", 32)
    if ratio == 1 or limit not in (2, 4, 8, 16, 32):
        raise InputError(
            f"config.json: expected an expand_ratio other than 1 and an output_stride of 2, 4, 8, 16 or 32, found "
            f"{ratio:g} and {limit!r}"
        )
    stem, widths, top = _thinned(config)
    _first(stem, widths)
    least, divisor = config.get("min_depth", 8), config.get("depth_divisible_by", 8)
    odd = [width for width in widths if divisible(round(width * ratio), divisor, least) != round(width * ratio)]
    if odd:
        raise InputError(
            f"config.json: {odd[0]} channels times expand_ratio={ratio:g} are no multiple of depth_divisible_by="
            f"{divisor}; jaxfer does not round the channels inside a block"
        )
    size = pair(config.get("image_size", 224), "config.json: image_size")
    rate = float(config.get("classifier_dropout_prob", TF_KEPT))
    return {
        "stem": stem,
        "widths": widths,
        "top": top,
        "expansions": (1.0, *[ratio] * 6),
        "first_expands": not config.get("first_layer_is_expansion", True),
        "output_stride": 0 if limit == 32 else limit,
        "padding": "same" if config.get("tf_padding", True) else "symmetric",
        "dropout": TF_DROPPED if rate == TF_KEPT else rate,
        "epsilon": float(config.get("layer_norm_eps", 1e-3)),
        **image_options(
            preprocessor, config.get("num_channels", 3), size, processor="MobileNetV2", fixed=False, own=PROCESSOR
        ),
    }


def _hf_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    module, (height, width, channels) = port.options, port.encoding.size
    return {
        "architectures": ["MobileNetV2ForImageClassification"],
        "model_type": "mobilenet_v2",
        "num_channels": channels,
        "image_size": height if height == width else [height, width],
        **_fields(module.stem, module.widths, module.top),
        "expand_ratio": module.expansions[-1],
        "first_layer_is_expansion": not module.first_expands,
        "output_stride": module.output_stride or 32,
        "hidden_act": "relu6",
        "tf_padding": module.padding == "same",
        "classifier_dropout_prob": module.dropout,
        "layer_norm_eps": module.epsilon,
        **labelled(port, labels),
    }


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    stem, channels = shapes["conv_stem.first_conv.convolution.weight"][:2]
    blocks = ("conv_stem", *(f"layer.{i}" for i in range(16)))
    narrow = [shapes[f"{block}.reduce_1x1.convolution.weight"][0] for block in blocks]
    starts = [sum(PUBLISHED.repeats[:i]) for i in range(len(PUBLISHED.repeats))]
    inside, inputs = shapes["layer.0.expand_1x1.convolution.weight"][:2]
    config = {
        "num_channels": channels,
        **_fields(stem, tuple(narrow[i] for i in starts), shapes["conv_1x1.convolution.weight"][0]),
        "expand_ratio": inside / inputs,
        "first_layer_is_expansion": "conv_stem.expand_1x1.convolution.weight" not in shapes,
    }
    left = {"padding": "tf_padding", "epsilon": "layer_norm_eps", "output_stride": "output_stride"}
    return config, {**left, "image": "image_size"}


def _plain(options: Options, what: str) -> None:
    """Refuses what the code of torchvision and timm does not compute."""
    needed(options, what, strides=PUBLISHED.strides, padding="symmetric", epsilon=1e-5)
    needed(options, what, first_expands=False)


def _torchvision_keys(port: Port) -> dict[str, Key]:
    _plain(port.options, "torchvision's MobileNetV2")

    def block(i: int, shape: Shape) -> dict[str, tuple[str, str]]:
        place, first = f"features.{i + 1}.conv", int(shape.expands)
        return {
            "expand": (f"{place}.0.0", f"{place}.0.1"),
            "depthwise": (f"{place}.{first}.0", f"{place}.{first}.1"),
            "project": (f"{place}.{first + 1}", f"{place}.{first + 2}"),
        }

    last = f"features.{len(port.options.shapes) + 1}"
    ends = {"stem": ("features.0.0", "features.0.1"), "top": (f"{last}.0", f"{last}.1")}
    return _inverted.keys(port, ends, block, "classifier.1")


def _torchvision_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes; how images are prepared from `input` of a config.json, if any."""
    last = count(shapes, r"features\.(\d+)\..*") - 1
    if last < 1 or "features.1.conv.0.0.weight" not in shapes or f"features.{last}.0.weight" not in shapes:
        raise _unlike("torchvision", "features.0.0.weight, features.1.conv.0.0.weight", shapes)
    blocks = []
    for i in range(1, last):
        place = f"features.{i}.conv"
        expands = f"{place}.3.weight" in shapes
        depthwise, project = (f"{place}.1.0", f"{place}.2") if expands else (f"{place}.0.0", f"{place}.1")
        names = (f"{place}.0.0.weight" if expands else "", f"{depthwise}.weight", f"{project}.weight")
        blocks.append(read_block(shapes, *names))
    return _read(config, preprocessor, shapes, ("features.0.0.weight", f"features.{last}.0.weight"), blocks, {})


def _timm_keys(port: Port) -> dict[str, Key]:
    _plain(port.options, "timm's MobileNetV2")
    return _inverted.timm_keys(port)


def _timm_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes; how images are prepared from timm's config.json, if any."""
    blocks = _inverted.timm_blocks(shapes)
    if "conv_stem.weight" not in shapes or "conv_head.weight" not in shapes or not blocks:
        raise _unlike("timm", "conv_stem.weight, blocks.0.0.conv_dw.weight", shapes)
    ends = ("conv_stem.weight", "conv_head.weight")
    return _read(config, preprocessor, shapes, ends, blocks, {"interpolation": "bicubic"})


def _unlike(library: str, wanted: str, shapes: Shapes) -> InputError:
    found = ", ".join(sorted(shapes)[:3]) or "no tensor"
    return InputError(f"expected a MobileNetV2 under {library}'s names ({wanted}), found {found}; name another layout")


def _read(
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    shapes: Shapes,
    ends: tuple[str, str],
    blocks: Sequence[Mapping[str, Any]],
    usual: Mapping[str, Any],
) -> dict[str, Any]:
    found, _, channels = _inverted.sizes(shapes, *ends, blocks, PUBLISHED.strides, "a MobileNetV2")
    fixed = {"padding": "symmetric", "epsilon": 1e-5, "output_stride": 0, "first_expands": False}
    return {**found, **fixed, **_inverted.prepared(config, preprocessor, channels, {**PREPARED, **usual})}


def _own_config(name: str) -> Any:
    return lambda port, options, labels: own_config(port, "mobilenet_v2", name, labels)


LAYOUTS = (
    Layout(
        name="hf",
        family="mobilenet_v2",
        model_types=("mobilenet_v2",),
        keys=_hf_keys,
        options=_hf_options,
        config=_hf_config,
        preprocessor=image_processor,
        entry="conv_stem.first_conv.convolution.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        ignored=(COUNTERS,),
        prefixes=(PREFIX,),
        constants=lambda port: counters(_hf_keys(port)),
        bare=_bare,
    ),
    Layout(
        name="torchvision",
        family="mobilenet_v2",
        model_types=(),
        keys=_torchvision_keys,
        options=_torchvision_options,
        config=_own_config("torchvision"),
        preprocessor=image_processor,
        entry="features.0.0.weight",
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"classifier\.1\..*",),
        ignored=(COUNTERS,),
        guessed=_inverted.PREPARATION,
        constants=lambda port: counters(_torchvision_keys(port)),
    ),
    Layout(
        name="timm",
        family="mobilenet_v2",
        model_types=(),
        keys=_timm_keys,
        options=_timm_options,
        config=_own_config("timm"),
        preprocessor=image_processor,
        entry="conv_stem.weight",
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        ignored=(COUNTERS,),
        guessed=_inverted.PREPARATION,
        constants=lambda port: counters(_timm_keys(port)),
        timm=Timm(
            names=r"mobilenetv2_(035|050|075|100|140|110d|120d)",
            shown="mobilenetv2_N (035, 050, 075, 100, 140, 110d, 120d)",
            pool="avg",
        ),
    ),
)
