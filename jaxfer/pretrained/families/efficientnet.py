"""EfficientNet in the layouts of Hugging Face, torchvision, timm and the PyTorch port `efficientnet_pytorch`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.chain import IMAGENET_MEAN, IMAGENET_STD
from jaxfer.models.efficientnet import Options
from jaxfer.models.inverted import PADDINGS, Shape, divisible
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
from jaxfer.pretrained.families._inverted import COUNTERS, needed, read_block, read_fused
from jaxfer.pretrained.layout import Facts, Key, Layout, Shapes, Timm

PREFIX = "efficientnet."
BASE = Options()
# The published networks differ by these: (width and depth multiplier, image, dropout).
SCALES = {
    "b0": (1.0, 1.0, 224, 0.2),
    "b1": (1.0, 1.1, 240, 0.2),
    "b2": (1.1, 1.2, 260, 0.3),
    "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4),
    "b5": (1.6, 2.2, 456, 0.4),
    "b6": (1.8, 2.6, 528, 0.5),
    "b7": (2.0, 3.1, 600, 0.5),
    "b8": (2.2, 3.6, 672, 0.5),
    "l2": (4.3, 5.3, 800, 0.5),
}
V2 = {(2, 4, 4, 6, 9, 15): (384, 0.2), (3, 5, 5, 7, 14, 18, 5): (480, 0.3), (4, 7, 7, 10, 19, 25, 7): (480, 0.4)}
# Where torchvision's weights were trained for other images: (image, shorter edge before it is cut).
TORCHVISION_SIZES = {224: (224, 256), 240: (240, 255), 260: (288, 288), 300: (300, 320), 380: (380, 384)}
BORDER = 32  # pixels that TensorFlow's networks were evaluated without, after a resize
LITE_SIZES = {260: 260, 300: 280, 380: 300}  # of Lite2 to Lite4, by the image of B2 to B4
# The defaults of transformers' processor of this family.
PROCESSOR = {"size": [346, 346], "resample": _image.BICUBIC, "crop_size": 289, "include_top": True}
ACTIVATIONS = {"swish": "silu", "silu": "silu", "relu6": "relu6"}
GUESSED = (*_inverted.PREPARATION, "epsilon", "padding", "activation", "squeeze")


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


class OwnConfig(_image.OwnConfig, total=False):
    """The fields that are read of the config.json of other layouts; those of timm's architectures follow its names."""

    padding: str
    norm_eps: float
    hidden_act: str
    squeeze: float


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


def _hf_keys(port: Port) -> dict[str, Key]:
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


def _hf_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
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


def _hf_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
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
        shapes, "embeddings.convolution.weight", "encoder.top_conv.weight", blocks, _strides(blocks), "an EfficientNet"
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
    known = _published(found["widths"], found["repeats"])
    config |= {"image_size": known[0], "dropout_rate": known[1]}
    left = {
        "epsilon": "batch_norm_eps",
        "symmetric_blocks": "depthwise_padding",
        "activation": "hidden_act",
        "image": "image_size",
    }
    return config, left


def _strides(blocks: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Of the stages, which shapes do not tell: V1 of 7 stages and V2 of 6 or 7 have the same."""
    return BASE.strides[: len(list(_inverted.stages(blocks)))]


def _published(widths: Sequence[int], repeats: Sequence[int]) -> tuple[int, float, float]:
    """(image, dropout, torchvision's epsilon) of the published network of these widths and repeats, else B0's."""
    if found := V2.get(tuple(repeats)):
        return (*found, 1e-3)
    for name, (width, depth, image, dropout) in SCALES.items():
        if tuple(divisible(x * width) for x in BASE.widths) != tuple(widths):
            continue
        deep = tuple(math.ceil(many * depth) for many in BASE.repeats)
        if deep[1:-1] == tuple(repeats[1:-1]):
            return image, dropout, 1e-3 if name >= "b5" else 1e-5
    return 224, 0.2, 1e-5


def _plain(options: Options, what: str) -> None:
    """Refuses what the code of the other libraries does not compute."""
    strides = BASE.strides[: len(options.strides)]
    needed(options, what, strides=strides, symmetric_blocks=())
    if options.padding == "end":
        raise InputError(f"{what} has padding='same' or 'symmetric', found 'end'; use another layout")


def _torchvision_keys(port: Port) -> dict[str, Key]:
    options = port.options
    _plain(options, "torchvision's EfficientNet")
    needed(options, "torchvision's EfficientNet", padding="symmetric", activation="silu", squeeze=0.25)
    stages = len(options.repeats)
    places = [(stage, i) for stage, many in enumerate(options.repeats) for i in range(many)]

    def block(i: int, shape: Shape) -> dict[str, tuple[str, str]]:
        stage, index = places[i]
        place = f"features.{stage + 1}.{index}.block"
        gated = int(shape.squeeze > 0)
        names: dict[str, tuple[str, str]] = {}
        for n, part in enumerate(shape.parts):
            n += gated if part == "project" else 0
            names[part] = (f"{place}.{n}.0", f"{place}.{n}.1")
        gate = f"{place}.{len(names) - 1}"
        return {**names, "gate": (f"{gate}.fc1", f"{gate}.fc2")}

    ends = {"stem": ("features.0.0", "features.0.1"), "top": (f"features.{stages + 1}.0", f"features.{stages + 1}.1")}
    return _inverted.keys(port, ends, block, "classifier.1")


def _torchvision_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes; the rest from a config.json of ours, if any."""
    last = count(shapes, r"features\.(\d+)\..*") - 1
    if last < 1 or "features.1.0.block.0.0.weight" not in shapes or f"features.{last}.0.weight" not in shapes:
        raise _unlike("torchvision", "features.0.0.weight, features.1.0.block.0.0.weight", shapes)
    blocks = []
    for stage in range(1, last):
        for i in range(count(shapes, rf"features\.{stage}\.(\d+)\.block\..*")):
            blocks.append({**_torchvision_block(shapes, f"features.{stage}.{i}.block"), "stage": stage})
    found, channels = _sizes(shapes, ("features.0.0.weight", f"features.{last}.0.weight"), blocks)
    image, dropout, epsilon = _published(found["widths"], found["repeats"])
    size, edge = TORCHVISION_SIZES.get(image, (image, image))
    usual = {"size": (size, size), "resize": (edge,) if edge != size else (), "interpolation": "bicubic"}
    if found["repeats"] in V2:  # S and M were resized otherwise, L was also normalised otherwise
        large = found["repeats"][0] == 4
        usual["interpolation"] = "bicubic" if large else "bilinear"
        usual |= {"mean": (0.5,), "std": (0.5,)} if large else {}
    facts = {"padding": "symmetric", "norm_eps": epsilon, "hidden_act": "silu"}
    found = {**found, "dropout": dropout, **_facts({**facts, **config})}
    return {**found, **_inverted.prepared(config, preprocessor, channels, _normalised(usual))}


def _torchvision_block(shapes: Shapes, place: str) -> dict[str, Any]:
    first, second = (f"{place}.{n}.0.weight" for n in (0, 1))
    inside = shapes[first]
    if inside[2] > 1 and inside[1] > 1:  # a window of all channels
        return {**read_fused(shapes, first, second), "squeeze": 0}
    expands = inside[2] == 1
    names = (first, second, f"{place}.3.0.weight") if expands else ("", first, f"{place}.2.0.weight")
    gate = shapes.get(f"{place}.{1 + expands}.fc1.weight", (0,))[0]
    return {**read_block(shapes, *names), "squeeze": gate}


def _timm_keys(port: Port) -> dict[str, Key]:
    _plain(port.options, "timm's EfficientNet")
    return _inverted.timm_keys(port)


def _timm_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes; the rest from timm's config.json or one of ours, if any."""
    blocks = _inverted.timm_blocks(shapes)
    if "conv_stem.weight" not in shapes or "conv_head.weight" not in shapes or not blocks:
        raise _unlike("timm", "conv_stem.weight, blocks.0.0.conv_dw.weight or .conv.weight", shapes)
    facts = {"padding": "symmetric", "norm_eps": 1e-5}
    return _read(config, preprocessor, shapes, ("conv_stem.weight", "conv_head.weight"), blocks, facts)


def _port_keys(port: Port) -> dict[str, Key]:
    options = port.options
    what = "efficientnet_pytorch"
    _plain(options, what)
    needed(options, what, kinds=("inverted",) * len(options.widths), padding="same")

    def block(i: int, shape: Shape) -> dict[str, tuple[str, str]]:
        names = {
            "expand": ("expand_conv", "bn0"),
            "depthwise": ("depthwise_conv", "bn1"),
            "project": ("project_conv", "bn2"),
            "gate": ("se_reduce", "se_expand"),
        }
        return {part: (f"_blocks.{i}._{first}", f"_blocks.{i}._{second}") for part, (first, second) in names.items()}

    return _inverted.keys(port, {"stem": ("_conv_stem", "_bn0"), "top": ("_conv_head", "_bn1")}, block, "_fc")


def _port_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes; the rest from a config.json of ours, if any."""
    blocks = []
    for i in range(count(shapes, r"_blocks\.(\d+)\..*")):
        place = f"_blocks.{i}"
        names = (f"{place}._{name}.weight" for name in ("expand_conv", "depthwise_conv", "project_conv"))
        gate = shapes.get(f"{place}._se_reduce.weight", (0,))[0]
        blocks.append({**read_block(shapes, *names), "squeeze": gate})
    if not blocks or "_conv_stem.weight" not in shapes:
        raise _unlike("efficientnet_pytorch", "_conv_stem.weight, _blocks.0._depthwise_conv.weight", shapes)
    facts = {"padding": "same", "norm_eps": 1e-3}
    return _read(config, preprocessor, shapes, ("_conv_stem.weight", "_conv_head.weight"), blocks, facts)


def _unlike(library: str, wanted: str, shapes: Shapes) -> InputError:
    found = ", ".join(sorted(shapes)[:3]) or "no tensor"
    return InputError(
        f"expected an EfficientNet under {library}'s names ({wanted}), found {found}; name another layout"
    )


def _sizes(shapes: Shapes, ends: tuple[str, str], blocks: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], int]:
    """(options that shapes determine, channels of the input)."""
    found, windows, channels = _inverted.sizes(shapes, *ends, blocks, _strides(blocks), "an EfficientNet")
    kinds = tuple(block["kind"] for _, block in _inverted.stages(blocks))
    gated = [block for block in blocks if block["kind"] == "inverted"]
    squeeze = gated[-1]["squeeze"] / gated[-1]["inputs"] if gated else 0.0
    # Published ones have a quarter, rounded down.
    quarter = all(block["squeeze"] == max(1, block["inputs"] // 4) for block in gated)
    squeeze = 0.25 if quarter and gated else squeeze
    return {**found, "windows": windows, "kinds": kinds, "squeeze": squeeze, "symmetric_blocks": ()}, channels


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    act = config["hidden_act"]
    if act not in ACTIVATIONS or config["padding"] not in PADDINGS:
        raise InputError(
            f"config.json: expected hidden_act of {', '.join(ACTIVATIONS)} and padding of {', '.join(PADDINGS)}, found "
            f"{act!r} and {config['padding']!r}"
        )
    return {
        "padding": config["padding"],
        "epsilon": float(config["norm_eps"]),
        "activation": ACTIVATIONS[act],
        "output_stride": 0,
        **({"squeeze": float(config["squeeze"])} if "squeeze" in config else {}),
    }


def _normalised(usual: Mapping[str, Any]) -> dict[str, Any]:
    return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, **usual}


def _read(
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    shapes: Shapes,
    ends: tuple[str, str],
    blocks: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    found, channels = _sizes(shapes, ends, blocks)
    image, dropout, _ = _published(found["widths"], found["repeats"])
    lite = not any(block["squeeze"] for block in blocks)
    size = LITE_SIZES.get(image, image) if lite else image
    usual = {"size": (size, size), "resize": (size + BORDER,), "interpolation": "bicubic"}
    if lite and facts["padding"] == "same":  # Lite was trained in TensorFlow on pixels in [-1, 1]
        usual |= {"mean": (0.5,), "std": (0.5,)}
    facts = {"hidden_act": "relu6" if lite else "silu", **facts, **config}
    found = {**found, "dropout": dropout, **_facts(facts)}
    return {**found, **_inverted.prepared(config, preprocessor, channels, _normalised(usual))}


def _own_config(name: str) -> Any:
    def config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        module = port.options
        return {
            **own_config(port, "efficientnet", name, labels),
            "padding": module.padding,
            "norm_eps": module.epsilon,
            "hidden_act": module.activation,
            "squeeze": module.squeeze,
        }

    return config


def _stated(hit: re.Match[str]) -> dict[str, Any]:
    """What timm's names say: those that begin with `tf_` were trained in TensorFlow, and compute as it does."""
    tf = hit[0].startswith("tf_")
    return {
        "padding": "same" if tf else "symmetric",
        "norm_eps": 1e-3 if tf else 1e-5,
        "hidden_act": "relu6" if "lite" in hit[0] else "silu",
    }


LAYOUTS = (
    Layout(
        name="hf",
        family="efficientnet",
        model_types=("efficientnet",),
        keys=_hf_keys,
        options=_hf_options,
        config=_hf_config,
        preprocessor=image_processor,
        entry="embeddings.convolution.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        ignored=(COUNTERS,),
        prefixes=(PREFIX,),
        constants=lambda port: counters(_hf_keys(port)),
        bare=_bare,
    ),
    *(
        Layout(
            name=name,
            family="efficientnet",
            model_types=(),
            keys=keys,
            options=options,
            config=_own_config(name),
            preprocessor=image_processor,
            entry=entry,
            facts=OwnConfig,
            processor=_image.Preprocessor,
            optional=(head,),
            ignored=(COUNTERS,),
            guessed=GUESSED,
            constants=lambda port, keys=keys: counters(keys(port)),
            timm=timm,
        )
        for name, keys, options, entry, head, timm in (
            (
                "torchvision",
                _torchvision_keys,
                _torchvision_options,
                "features.0.0.weight",
                r"classifier\.1\..*",
                None,
            ),
            (
                "timm",
                _timm_keys,
                _timm_options,
                "conv_stem.weight",
                r"classifier\..*",
                Timm(
                    names=r"(tf_)?efficientnet_(b[0-8]|l2|lite[0-4])|efficientnetv2_(s|m|l|xl|rw_[tsm])"
                    r"|tf_efficientnetv2_(s|m|l|xl|b[0-3])",
                    shown="[tf_]efficientnet_N (b0 to b8, l2, lite0 to lite4), [tf_]efficientnetv2_N (s, m, l, xl; "
                    "rw_t, rw_s, rw_m; with tf_ b0 to b3)",
                    pool="avg",
                    stated=_stated,
                ),
            ),
            ("efficientnet_pytorch", _port_keys, _port_options, "_conv_stem.weight", r"_fc\..*", None),
        )
    ),
)
