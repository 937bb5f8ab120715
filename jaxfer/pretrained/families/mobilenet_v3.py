"""MobileNetV3 in the layouts of torchvision and timm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.errors import InputError
from jaxfer.models.chain import IMAGENET_MEAN, IMAGENET_STD
from jaxfer.models.inverted import PADDINGS, Shape
from jaxfer.models.mobilenet_v3 import ACTS, Options
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import count
from jaxfer.pretrained.families import _image, _inverted
from jaxfer.pretrained.families._image import counters, image_processor, own_config
from jaxfer.pretrained.families._inverted import COUNTERS, GATE, needed, read_block
from jaxfer.pretrained.layout import DENSE, Key, Layout, Shapes, Timm

# Of Large and Small, by how many stages they have: what tensor shapes do not tell.
REPEATS = {15: (1, 2, 3, 4, 2, 3), 11: (1, 2, 3, 2, 3)}
STRIDES = {6: (1, 2, 2, 2, 1, 2), 5: (2, 2, 2, 1, 2)}
RELUS = {6: 3, 5: 2}  # stages with ReLU; the later ones have the hard swish
PREPARED = {"size": (224, 224), "resize": (256,), "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
GUESSED = (*_inverted.PREPARATION, "epsilon", "padding")


class OwnConfig(_image.OwnConfig, total=False):
    """The fields that are read of a config.json of ours; those of timm's architectures follow its names."""

    padding: str
    norm_eps: float
    minimal: bool


def _plain(options: Options, what: str) -> None:
    """Refuses what the code of torchvision and timm does not compute."""
    stages = len(options.widths)
    if stages not in STRIDES:
        raise InputError(f"{what} has 5 stages (Small) or 6 (Large), found {stages}; use jaxfer's own checkpoints")
    minimal = options.activation == "relu"
    acts = _acts(stages, minimal)
    gated = (False,) * stages if minimal else options.gated
    needed(options, what, strides=STRIDES[stages], acts=acts, gated=gated)
    if options.padding == "end":
        raise InputError(f"{what} has padding='same' or 'symmetric', found 'end'; use another layout")


def _acts(stages: int, minimal: bool) -> tuple[str, ...]:
    relus = stages if minimal else RELUS[stages]
    return ("relu",) * relus + ("hard_swish",) * (stages - relus)


def _torchvision_keys(port: Port) -> dict[str, Key]:
    options, what = port.options, "torchvision's MobileNetV3"
    _plain(options, what)
    needed(options, what, padding="symmetric", epsilon=1e-3, activation="hard_swish")
    needed(options, what, repeats=REPEATS.get(sum(options.repeats), REPEATS[15]))

    def block(i: int, shape: Shape) -> dict[str, tuple[str, str]]:
        place = f"features.{i + 1}.block"
        names: dict[str, tuple[str, str]] = {}
        for n, part in enumerate(shape.parts):
            n += part == "project" and shape.squeeze > 0
            names[part] = (f"{place}.{n}.0", f"{place}.{n}.1")
        gate = f"{place}.{len(names) - 1}"
        return {**names, "gate": (f"{gate}.fc1", f"{gate}.fc2")}

    last = f"features.{len(options.shapes) + 1}"
    ends = {"stem": ("features.0.0", "features.0.1"), "top": (f"{last}.0", f"{last}.1")}
    return {
        **_inverted.keys(port, ends, block, "classifier.3"),
        "params/head/hidden/kernel": Key("classifier.0.weight", DENSE),
        "params/head/hidden/bias": Key("classifier.0.bias"),
    }


def _torchvision_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes; how images are prepared from `input` of a config.json, if any."""
    last = count(shapes, r"features\.(\d+)\..*") - 1
    named = ("features.1.block.0.0.weight", f"features.{last}.0.weight", "classifier.0.weight")
    if not all(name in shapes for name in named) or last - 1 not in REPEATS:
        raise _unlike("torchvision", f"{', '.join(named)}; 11 or 15 blocks", shapes)
    stages = [stage for stage, many in enumerate(REPEATS[last - 1]) for _ in range(many)]
    blocks = []
    for i in range(1, last):
        place = f"features.{i}.block"
        expands = shapes[f"{place}.0.0.weight"][1] != 1
        gated = f"{place}.{1 + expands}.fc1.weight" in shapes
        names = (f"{place}.0.0" if expands else "", f"{place}.{int(expands)}.0", f"{place}.{1 + expands + gated}.0")
        block = read_block(shapes, *(f"{name}.weight" for name in names))
        blocks.append({**block, "stage": stages[i - 1], "squeeze": int(gated)})
    usual = {**PREPARED, "interpolation": "bilinear"}
    facts = {"padding": "symmetric", "norm_eps": 1e-3, **config, "minimal": False}
    ends = ("features.0.0.weight", f"features.{last}.0.weight", "classifier.0.weight")
    return _read(config, preprocessor, shapes, ends, blocks, facts, usual)


def _timm_keys(port: Port) -> dict[str, Key]:
    options = port.options
    _plain(options, "timm's MobileNetV3")
    places = [(stage, i) for stage, many in enumerate(options.repeats) for i in range(many)]

    def block(i: int, shape: Shape) -> dict[str, tuple[str, str]]:
        return _inverted.timm_block("blocks.{}.{}".format(*places[i]), shape)

    top = f"blocks.{len(options.repeats)}.0"
    ends = {"stem": ("conv_stem", "bn1"), "top": (f"{top}.conv", f"{top}.bn1")}
    return {
        **_inverted.keys(port, ends, block, "classifier"),
        "params/head/hidden/kernel": Key("conv_head.weight", GATE),
        "params/head/hidden/bias": Key("conv_head.bias"),
    }


def _timm_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes; the rest from timm's config.json or one of ours, if any."""
    *blocks, last = _inverted.timm_blocks(shapes) or [{}]
    if "conv_stem.weight" not in shapes or "conv_head.bias" not in shapes or last.get("kind") != "conv":
        raise _unlike("timm", "conv_stem.weight, blocks.0.0.conv_dw.weight, conv_head.bias", shapes)
    minimal = not any(block["squeeze"] for block in blocks)
    facts = {"padding": "symmetric", "norm_eps": 1e-5, "minimal": minimal, **config}
    ends = ("conv_stem.weight", f"blocks.{last['stage']}.0.conv.weight", "conv_head.weight")
    return _read(config, preprocessor, shapes, ends, blocks, facts, {**PREPARED, "interpolation": "bicubic"})


def _unlike(library: str, wanted: str, shapes: Shapes) -> InputError:
    found = ", ".join(sorted(shapes)[:3]) or "no tensor"
    return InputError(f"expected a MobileNetV3 under {library}'s names ({wanted}), found {found}; name another layout")


def _read(
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    shapes: Shapes,
    ends: tuple[str, str, str],
    blocks: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    usual: Mapping[str, Any],
) -> dict[str, Any]:
    stem, top, hidden = (shapes[end] for end in ends)
    runs = list(_inverted.stages(blocks))
    stages = len(runs)
    if stages not in STRIDES:
        raise InputError(f"expected a MobileNetV3 of 5 or 6 stages, found {stages}; others' strides are not known")
    odd = next((i for i, block in enumerate(blocks) if block["expands"] and block["expanded"] == block["inputs"]), None)
    if odd is not None:
        raise InputError(f"block {odd} has a 1x1 convolution that does not widen; a MobileNetV3 has none")
    if facts["padding"] not in PADDINGS:
        raise InputError(f"config.json: expected padding of {', '.join(PADDINGS)}, found {facts['padding']!r}")
    minimal = bool(facts["minimal"])
    found = {
        "stem": stem[0],
        "widths": tuple(block["features"] for _, block in runs),
        "repeats": tuple(many for many, _ in runs),
        "strides": STRIDES[stages],
        "expanded": tuple(block["expanded"] for block in blocks),
        "windows": tuple(block["window"] for _, block in runs),
        "gated": tuple(block["squeeze"] > 0 for _, block in runs),
        "acts": _acts(stages, minimal),
        "activation": ACTS[not minimal],
        "top": top[0],
        "hidden": hidden[0],
        "output_stride": 0,
        "padding": facts["padding"],
        "epsilon": float(facts["norm_eps"]),
    }
    return {**found, **_inverted.prepared(config, preprocessor, stem[1], usual)}


def _own_config(name: str) -> Any:
    def config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        module = port.options
        facts = {
            "padding": module.padding,
            "norm_eps": module.epsilon,
            "minimal": module.activation == "relu",
        }
        return {**own_config(port, "mobilenet_v3", name, labels), **facts}

    return config


def _stated(hit: re.Match[str]) -> dict[str, Any]:
    """What timm's names say: those that begin with `tf_` were trained in TensorFlow, and compute as it does."""
    tf = hit[0].startswith("tf_")
    return {
        "padding": "same" if tf else "symmetric",
        "norm_eps": 1e-3 if tf else 1e-5,
        "minimal": "minimal" in hit[0],
    }


LAYOUTS = (
    Layout(
        name="torchvision",
        family="mobilenet_v3",
        model_types=(),
        keys=_torchvision_keys,
        options=_torchvision_options,
        config=_own_config("torchvision"),
        preprocessor=image_processor,
        entry="features.0.0.weight",
        facts=OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"classifier\.3\..*",),
        ignored=(COUNTERS,),
        guessed=_inverted.PREPARATION,
        constants=lambda port: counters(_torchvision_keys(port)),
    ),
    Layout(
        name="timm",
        family="mobilenet_v3",
        model_types=(),
        keys=_timm_keys,
        options=_timm_options,
        config=_own_config("timm"),
        preprocessor=image_processor,
        entry="conv_stem.weight",
        facts=OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        ignored=(COUNTERS,),
        guessed=GUESSED,
        constants=lambda port: counters(_timm_keys(port)),
        timm=Timm(
            names=r"mobilenetv3_(large_(075|100|150d)|small_(050|075|100))"
            r"|tf_mobilenetv3_(large|small)_(075|100|minimal_100)",
            shown="mobilenetv3_large_N (075, 100, 150d), mobilenetv3_small_N (050, 075, 100), "
            "tf_mobilenetv3_SIZE_N (large and small; 075, 100, minimal_100)",
            pool="avg",
            stated=_stated,
        ),
    ),
)
