"""Keys and shapes that the checkpoints of MobileNetV2 and its kin share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxfer.errors import InputError
from jaxfer.models.inverted import InvertedOptions, Shape
from jaxfer.models.port import Port
from jaxfer.pretrained.families._image import image_options, input_options, pair
from jaxfer.pretrained.layout import CONV, DENSE, DEPTHWISE, Key, Shapes, Transform

GATE = Transform("gate", lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])  # a 1x1 convolution of means
COUNTERS = r"(.*\.)?num_batches_tracked"

PREPARATION = ("mean", "std", "interpolation", "resize")  # of a bare file: what its code's authors trained with


# The names of one module of ours: (key of the convolution, key of its norm).
Names = Mapping[str, tuple[str, str]]


def keys(port: Port, ends: Names, block: Callable[[int, Shape], Names], head: str, prefix: str = "") -> dict[str, Key]:
    """The key table.

    Args:
      port: an inverted network.
      ends: names of `stem` and `top`.
      block: (its number, its shape) -> names of its parts; of its `gate`, those of both layers, where it has one.
      head: key of the output layer.
      prefix: before all keys but the head's.
    """
    table = {"params/head/out/kernel": Key(f"{head}.weight", DENSE), "params/head/out/bias": Key(f"{head}.bias")}
    for unit, (conv, norm) in ends.items():
        table |= _normed(f"{unit}/conv/kernel", f"{unit}/norm", prefix + conv, prefix + norm, CONV)
    for i, shape in enumerate(port.options.shapes):
        names = block(i, shape)
        for part in shape.parts:
            first, second = (prefix + name for name in names[part])
            path = f"block_{i}/{part}"
            leaf, turn = ("window", DEPTHWISE) if part == "depthwise" else ("kernel", CONV)
            table |= _normed(f"{path}/{leaf}", f"block_{i}/norm_{part}", first, second, turn)
        for layer, name in zip(("reduce", "expand"), names["gate"] if shape.squeeze else (), strict=False):
            table[f"params/block_{i}/gate/{layer}/kernel"] = Key(f"{prefix}{name}.weight", GATE)
            table[f"params/block_{i}/gate/{layer}/bias"] = Key(f"{prefix}{name}.bias")
    return table


def _normed(leaf: str, norm: str, conv_key: str, norm_key: str, turn: Transform) -> dict[str, Key]:
    return {
        f"params/{leaf}": Key(f"{conv_key}.weight", turn),
        f"params/{norm}/scale": Key(f"{norm_key}.weight"),
        f"params/{norm}/bias": Key(f"{norm_key}.bias"),
        f"batch_stats/{norm}/mean": Key(f"{norm_key}.running_mean"),
        f"batch_stats/{norm}/var": Key(f"{norm_key}.running_var"),
    }


def stages(blocks: Sequence[Mapping[str, int]]) -> Iterator[tuple[int, Mapping[str, int]]]:
    """(how many blocks, what they are) of each stage of a network whose keys only number its blocks.

    A stage begins where the keys say so, or where a block gives another width than it reads, and where its window or
    expansion changes: all blocks of a stage but the first are alike.
    """
    run: list[Mapping[str, int]] = []
    for block in blocks:
        if run and _begins(run[-1], block):
            yield len(run), run[0]
            run = []
        run.append(block)
    if run:
        yield len(run), run[0]


def _begins(before: Mapping[str, int], block: Mapping[str, int]) -> bool:
    if "stage" in block:
        return before["stage"] != block["stage"]
    return block["inputs"] != block["features"] or any(before[of] != block[of] for of in ("kind", "ratio", "window"))


def read_block(shapes: Shapes, expand: str, depthwise: str, project: str) -> dict[str, Any]:
    """A block's sizes from the shapes of its convolutions; `expand` may be absent."""
    inside, _, window, _ = shapes[depthwise]
    inputs = shapes[expand][1] if expand in shapes else inside
    return {**_block("inverted", inputs, inside, shapes[project][0], window), "expands": expand in shapes}


def read_fused(shapes: Shapes, expand: str, project: str) -> dict[str, Any]:
    """The same of a fused block, or of a convolution alone, which has no `project`."""
    inside, inputs, window, _ = shapes[expand]
    if project in shapes:
        return _block("fused", inputs, inside, shapes[project][0], window)
    return _block("conv", inputs, inputs, inside, window)


def _block(kind: str, inputs: int, inside: int, features: int, window: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "inputs": inputs,
        "expanded": inside,
        "features": features,
        "window": window,
        "ratio": float(inside / inputs) if inside % inputs else float(inside // inputs),
    }


def sizes(
    shapes: Shapes, stem: str, top: str, blocks: Sequence[Mapping[str, Any]], strides: Sequence[int], what: str
) -> tuple[dict[str, Any], tuple[int, ...], int]:
    """(options that shapes determine, windows of each stage, channels of the input).

    Raises:
      InputError: another number of stages than `strides`, which shapes do not tell.
    """
    found = list(stages(blocks))
    if len(found) != len(strides):
        raise InputError(f"expected {what} of {len(strides)} stages, found {len(found)}; others' strides are not known")
    options = {
        "stem": shapes[stem][0],
        "widths": tuple(block["features"] for _, block in found),
        "repeats": tuple(many for many, _ in found),
        "strides": tuple(strides),
        "expansions": tuple(block["ratio"] for _, block in found),
        "top": shapes[top][0],
    }
    return options, tuple(block["window"] for _, block in found), shapes[stem][1]


def prepared(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], channels: int, usual: Mapping[str, Any]
) -> dict[str, Any]:
    """How images are prepared, from a preprocessor, or `input` of a config.json, or else as `usual` says.

    `usual` is what the weights that are published under these names were trained for: `size` and options.
    """
    options, stated = dict(usual), config.get("input") or {}
    size = options.pop("size")
    if "size" in stated:
        size, options = pair(stated["size"], "config.json: input.size"), {}
    return {
        **options,
        **input_options(config),
        **image_options(preprocessor, channels, size, processor="ViT", fixed=False),
    }


def needed(options: InvertedOptions, what: str, **values: Any) -> None:
    """`InputError` unless the network is one that the other library's code computes."""
    for name, value in values.items():
        found = getattr(options, name)
        if found != value:
            raise InputError(f"{what} has {name}={value!r}, found {found!r}; use another layout")


def timm_block(place: str, shape: Shape) -> dict[str, tuple[str, str]]:
    """Names of a block's parts in timm, which numbers norms in the order of the convolutions before them."""
    convs = {
        "inverted": ("conv_pw", "conv_dw", "conv_pwl") if shape.expands else ("conv_dw", "conv_pw"),
        "fused": ("conv_exp", "conv_pwl"),
        "conv": ("conv",),
    }[shape.kind]
    parts = {
        part: (f"{place}.{conv}", f"{place}.bn{i}")
        for i, (part, conv) in enumerate(zip(shape.parts, convs, strict=True), 1)
    }
    return {**parts, "gate": (f"{place}.se.conv_reduce", f"{place}.se.conv_expand")}


def timm_keys(port: Port) -> dict[str, Key]:
    """timm's key table."""
    places = [(stage, i) for stage, many in enumerate(port.options.repeats) for i in range(many)]

    def block(i: int, shape: Shape) -> dict[str, tuple[str, str]]:
        return timm_block("blocks.{}.{}".format(*places[i]), shape)

    return keys(port, {"stem": ("conv_stem", "bn1"), "top": ("conv_head", "bn2")}, block, "classifier")


def timm_blocks(shapes: Shapes) -> list[dict[str, Any]]:
    """Sizes of the blocks under timm's names, in order."""
    hits = (re.match(r"blocks\.(\d+)\.(\d+)\.conv(_dw|_exp)?\.", key) for key in shapes)
    blocks = []
    for stage, i in sorted({(int(hit[1]), int(hit[2])) for hit in hits if hit}):
        place = f"blocks.{stage}.{i}"
        if f"{place}.conv_dw.weight" in shapes:
            expands = f"{place}.conv_pwl.weight" in shapes
            expand, project = (f"{place}.conv_pw", f"{place}.conv_pwl") if expands else ("", f"{place}.conv_pw")
            block = read_block(shapes, f"{expand}.weight", f"{place}.conv_dw.weight", f"{project}.weight")
        else:
            expand = f"{place}.conv_exp.weight"
            expand = expand if expand in shapes else f"{place}.conv.weight"
            block = read_fused(shapes, expand, f"{place}.conv_pwl.weight")
        gate = shapes.get(f"{place}.se.conv_reduce.weight", (0,))[0]
        blocks.append({**block, "stage": stage, "squeeze": gate})
    return blocks
