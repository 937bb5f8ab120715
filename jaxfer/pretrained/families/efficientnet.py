"""EfficientNet in the layouts of torchvision, timm and the PyTorch port `efficientnet_pytorch`.

`_efficientnet_hf.py` has that of Hugging Face.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.errors import InputError
from jaxfer.models.chain import IMAGENET_MEAN, IMAGENET_STD
from jaxfer.models.efficientnet import Options
from jaxfer.models.inverted import PADDINGS, Shape
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import count
from jaxfer.pretrained.families import _efficientnet_hf, _image, _inverted
from jaxfer.pretrained.families._efficientnet import ACTIVATIONS, BASE, V2, published, strides
from jaxfer.pretrained.families._image import (
    counters,
    image_processor,
    own_config,
)
from jaxfer.pretrained.families._inverted import COUNTERS, needed, read_block, read_fused
from jaxfer.pretrained.layout import Key, Layout, Shapes, Timm

# Where torchvision's weights were trained for other images: (image, shorter edge before it is cut).
TORCHVISION_SIZES = {224: (224, 256), 240: (240, 255), 260: (288, 288), 300: (300, 320), 380: (380, 384)}
BORDER = 32  # pixels that TensorFlow's networks were evaluated without, after a resize
LITE_SIZES = {260: 260, 300: 280, 380: 300}  # of Lite2 to Lite4, by the image of B2 to B4
GUESSED = (*_inverted.PREPARATION, "epsilon", "padding", "activation", "squeeze")


class OwnConfig(_image.OwnConfig, total=False):
    """The fields that are read of the config.json of other layouts; those of timm's architectures follow its names."""

    padding: str
    norm_eps: float
    hidden_act: str
    squeeze: float


def _plain(options: Options, what: str) -> None:
    """Refuses what the code of the other libraries does not compute."""
    needed(options, what, strides=BASE.strides[: len(options.strides)], symmetric_blocks=())
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
    image, dropout, epsilon = published(found["widths"], found["repeats"])
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
    found, windows, channels = _inverted.sizes(shapes, *ends, blocks, strides(blocks), "an EfficientNet")
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
    image, dropout, _ = published(found["widths"], found["repeats"])
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
    _efficientnet_hf.LAYOUT,
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
