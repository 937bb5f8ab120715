"""BiT in Hugging Face's layout, in timm's, and in Google's own `.npz`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import count
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import (
    BICUBIC,
    expect,
    image_options,
    image_processor,
    input_options,
    labelled,
    own_config,
    pair,
)
from jaxfer.pretrained.families.clip_vision import MEAN, STD
from jaxfer.pretrained.layout import (
    CONV,
    DENSE,
    IDENTITY,
    Facts,
    Key,
    Layout,
    Shapes,
    Timm,
    Transform,
)

PREFIX, GOOGLE = "bit.", "resnet/"
ENTRY, ROOT, STEM = "embedder.convolution.weight", f"{GOOGLE}root_block/standardized_conv2d/kernel", "stem.conv.weight"
POINT = Transform("point", lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])  # a 1x1 convolution of means
LAST = Transform("point", lambda x: x[0, 0], lambda x: x[None, None])  # the same in Google's axes
# `BitImageProcessor`'s values for absent fields.
PROCESSOR = {
    "size": {"shortest_edge": 224},
    "resample": BICUBIC,
    "do_center_crop": True,
    "crop_size": 224,
    "image_mean": MEAN,
    "image_std": STD,
}


class Config(TypedDict, total=False):
    """The fields of transformers' config.json that are read."""

    num_channels: int
    embedding_size: int
    hidden_sizes: tuple[int, ...]
    depths: tuple[int, ...]
    layer_type: str
    hidden_act: str
    global_padding: str | None
    num_groups: int
    drop_path_rate: float
    embedding_dynamic_padding: bool
    output_stride: int
    width_factor: int


class Names(NamedTuple):
    """A layout's names.

    Attributes:
      conv: what follows a convolution's name, and its transform.
      norm: what follows a norm's, for scale and bias.
      stem: of the convolution and of the norm.
      block: (stage, index, part) -> of `conv_1`, `norm_1`, ..., `shortcut_conv` and `shortcut_norm`.
      last: of the last norm.
      head: of the output layer's kernel and bias, and the kernel's transform.
    """

    conv: tuple[str, Transform]
    norm: tuple[str, str]
    stem: tuple[str, str]
    block: Callable[[int, int, str], str]
    last: str
    head: tuple[str, str, Transform]


def _torch_block(place: Callable[[int, int], str]) -> Callable[[int, int, str], str]:
    def block(stage: int, i: int, part: str) -> str:
        return f"{place(stage, i)}.{part.replace('shortcut_', 'downsample.').replace('_', '')}"

    return block


TORCH = dict(conv=(".weight", CONV), norm=(".weight", ".bias"))
HF = Names(
    **TORCH,
    stem=(f"{PREFIX}embedder.convolution", f"{PREFIX}embedder.norm"),
    block=_torch_block(lambda stage, i: f"{PREFIX}encoder.stages.{stage}.layers.{i}"),
    last=f"{PREFIX}norm",
    head=("classifier.1.weight", "classifier.1.bias", DENSE),
)
TIMM = Names(
    **TORCH,
    stem=("stem.conv", "stem.norm"),
    block=_torch_block(lambda stage, i: f"stages.{stage}.blocks.{i}"),
    last="norm",
    head=("head.fc.weight", "head.fc.bias", POINT),
)


def _google_block(stage: int, i: int, part: str) -> str:
    unit = f"{GOOGLE}block{stage + 1}/unit{i + 1:02d}"
    return f"{unit}/a/proj" if part == "shortcut_conv" else f"{unit}/{'abc'[int(part[-1]) - 1]}"


NPZ = Names(
    conv=("/standardized_conv2d/kernel", IDENTITY),
    norm=("/group_norm/gamma", "/group_norm/beta"),
    stem=(f"{GOOGLE}root_block", ""),
    block=_google_block,
    last=GOOGLE.rstrip("/"),
    head=(f"{GOOGLE}head/conv2d/kernel", f"{GOOGLE}head/conv2d/bias", LAST),
)


def _places(port: Port) -> Iterator[tuple[str, int, int]]:
    """Yields (unit, stage, index within the stage) of every block."""
    places = ((stage, i) for stage, blocks in enumerate(port.options.stage_sizes) for i in range(blocks))
    return ((f"block_{n}", *place) for n, place in enumerate(places))


def _keys(names: Names) -> Callable[[Port], dict[str, Key]]:
    """The key table of a layout."""

    def keys(port: Port) -> dict[str, Key]:
        table, first = {}, port.options.block == "preactivation"

        def conv(leaf: str, name: str) -> None:
            table[f"params/{leaf}/kernel"] = Key(name + names.conv[0], names.conv[1])

        def norm(leaf: str, name: str) -> None:
            for part, end in zip(("scale", "bias"), names.norm, strict=True):
                table[f"params/{leaf}/{part}"] = Key(name + end)

        conv("stem/conv", names.stem[0])
        if not first:
            norm("stem/norm", names.stem[1])
        for unit, stage, i in _places(port):
            for part in "123":
                conv(f"{unit}/conv_{part}", names.block(stage, i, f"conv_{part}"))
                norm(f"{unit}/norm_{part}", names.block(stage, i, f"norm_{part}"))
            if i == 0:
                conv(f"{unit}/shortcut_conv", names.block(stage, i, "shortcut_conv"))
                if not first:
                    norm(f"{unit}/shortcut_norm", names.block(stage, i, "shortcut_norm"))
        if first:
            norm("head/norm", names.last)
        kernel, bias, transform = names.head
        return {**table, "params/head/out/kernel": Key(kernel, transform), "params/head/out/bias": Key(bias)}

    return keys


def _only(port: Port, whose: str, **values: Any) -> None:
    """Raises `InputError` unless the network has these values, the only ones that a layout's files stand for."""
    if odd := [
        f"{name}={getattr(port.options, name)!r}" for name in values if getattr(port.options, name) != values[name]
    ]:
        shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise InputError(f"{whose} BiT has {shown}; this model has {', '.join(odd)}")


def _hf_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; absent fields have `BitConfig`'s defaults.

    With a `width_factor` transformers' own classifier fails: its last norm has the unscaled width.
    """
    expect(config, hidden_act="relu", output_stride=32, width_factor=1)
    padding = config.get("global_padding")
    if padding is not None and padding.upper() != "SAME":
        raise InputError(f"config.json: expected a global_padding of null or 'SAME', found {padding!r}")
    width = config.get("embedding_size", 64)
    widths, depths = (
        tuple(config.get("hidden_sizes", (256, 512, 1024, 2048))),
        tuple(config.get("depths", (3, 4, 6, 3))),
    )
    if len(widths) != len(depths):
        raise InputError(
            f"config.json: expected hidden_sizes for the {len(depths)} stages in depths, found {list(widths)}"
        )
    return {
        "stage_sizes": depths,
        "width": width,
        "widths": _widths(width, widths),
        "groups": config.get("num_groups", 32),
        "block": config.get("layer_type", "preactivation"),
        "padding": "same" if padding else "symmetric",
        "same_pool": config.get("embedding_dynamic_padding", False),
        "kernel_epsilon": 1e-8,
        "stochastic_depth": float(config.get("drop_path_rate", 0.0)),
        **image_options(
            preprocessor, config.get("num_channels", 3), (224, 224), processor="Bit", fixed=False, own=PROCESSOR
        ),
    }


def _widths(width: int, widths: tuple[int, ...]) -> tuple[int, ...]:
    """The port's `widths`: () if they are the published multiples of the stem's."""
    return () if widths == tuple(4 * width * 2**stage for stage in range(len(widths))) else widths


def _hf_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    module = port.options
    _only(port, "transformers'", kernel_epsilon=1e-8)
    return {
        "architectures": ["BitForImageClassification"],
        "model_type": "bit",
        "num_channels": port.encoding.size[2],
        "embedding_size": module.width,
        "hidden_sizes": list(module.features),
        "depths": list(module.stage_sizes),
        "layer_type": module.block,
        "hidden_act": "relu",
        "global_padding": "SAME" if module.padding == "same" else None,
        "num_groups": module.groups,
        "drop_path_rate": module.stochastic_depth,
        "embedding_dynamic_padding": module.same_pool,
        "output_stride": 32,
        "width_factor": 1,
        **labelled(port, labels),
    }


def _bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels = shapes[ENTRY][:2]
    stages = range(count(shapes, r"encoder\.stages\.(\d+)\..*"))
    config = {
        "embedding_size": width,
        "num_channels": channels,
        "depths": [count(shapes, rf"encoder\.stages\.{i}\.layers\.(\d+)\..*") for i in stages],
        "hidden_sizes": [shapes[f"encoder.stages.{i}.layers.0.conv3.weight"][0] for i in stages],
        "layer_type": "bottleneck" if "embedder.norm.weight" in shapes else "preactivation",
    }
    left = {"groups": "num_groups", "padding": "global_padding", "same_pool": "embedding_dynamic_padding"}
    return config, {**left, "image": "image_size"}


def _of_shapes(
    stem: str, conv: str, out: int, whose: str, epsilon: float
) -> Callable[[Mapping[str, Any], Mapping[str, Any], Shapes], dict[str, Any]]:
    """Options from tensor shapes alone, and how images are prepared from `input` of a config.json.

    Args:
      stem: key of the stem's convolution.
      conv: pattern of keys of the last convolutions of blocks, whose groups are the numbers of stage and block.
      out: axis of a kernel's output channels; the input's is the one beside it.
      whose: whose names they are.
      epsilon: `kernel_epsilon`.
    """

    def options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
        blocks = {tuple(map(int, hit.groups())): shapes[k][out] for k in shapes if (hit := re.fullmatch(conv, k))}
        if len(shapes.get(stem, ())) != 4 or not blocks:
            raise InputError(
                f"expected a BiT under {whose} names ({stem}, ...), found "
                f"{', '.join(sorted(shapes)[:3]) or 'no tensor'}; name another layout"
            )
        stages, width = sorted({stage for stage, _ in blocks}), shapes[stem][out]
        stated = config.get("input", {})
        size = pair(stated["size"], "config.json: input.size") if "size" in stated else (224, 224)
        return {
            "stage_sizes": tuple(sum(stage == n for stage, _ in blocks) for n in stages),
            "width": width,
            "widths": _widths(width, tuple(next(x for (n, _), x in blocks.items() if n == stage) for stage in stages)),
            "kernel_epsilon": epsilon,
            **input_options(config),
            **image_options(
                preprocessor, shapes[stem][1 if out == 0 else 2], size, processor="Bit", fixed=False, own=PROCESSOR
            ),
        }

    return options


def _timm_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    raise InputError("timm folders can be read but not written; use --format=hf")


def _google_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """A config.json for its options to be read back, with the labels; no library defines this format."""
    plain = dict(groups=32, padding="symmetric", same_pool=False, kernel_epsilon=1e-10)
    _only(port, "Google's", block="preactivation", **plain)
    return own_config(port, "bit", "google", labels)


LAYOUTS = (
    Layout(
        name="hf",
        family="bit",
        model_types=("bit",),
        keys=_keys(HF),
        options=_hf_options,
        config=_hf_config,
        preprocessor=image_processor,
        entry=ENTRY,
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\.1\..*",),
        prefixes=(PREFIX,),
        bare=_bare,
        standardised=True,
    ),
    Layout(
        name="timm",
        family="bit",
        model_types=(),
        keys=_keys(TIMM),
        options=_of_shapes(STEM, r"stages\.(\d+)\.blocks\.(\d+)\.conv3\.weight", 0, "timm's", 1e-8),
        config=_timm_config,
        preprocessor=image_processor,
        entry=STEM,
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"head\.fc\..*",),
        timm=Timm(names=r"resnetv2_(50|101|152)x\d_bit", shown="resnetv2_NxW_bit (50, 101, 152)", pool="avg"),
    ),
    Layout(
        name="google",
        family="bit",
        model_types=(),
        keys=_keys(NPZ),
        options=_of_shapes(ROOT, rf"{GOOGLE}block(\d+)/unit(\d+)/c/standardized_conv2d/kernel", 3, "Google's", 1e-10),
        config=_google_config,
        preprocessor=image_processor,
        entry=ROOT,
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(rf"{GOOGLE}head/.*",),
    ),
)
