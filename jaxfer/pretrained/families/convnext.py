"""ConvNeXt and ConvNeXt V2 in Hugging Face's layout, in torchvision's (V1 alone) and in timm's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.bare import count
from jaxfer.pretrained.families import _image
from jaxfer.pretrained.families._image import (
    expect,
    image_options,
    image_processor,
    input_options,
    labelled,
    own_config,
    pair,
)
from jaxfer.pretrained.layout import CONV, DENSE, DEPTHWISE, IDENTITY, Facts, Key, Layout, Shapes, Timm, Transform

PREFIXES = ("convnext.", "convnextv2.")
# Dense layers of timm's smaller networks are 1x1 convolutions: [out, in, 1, 1] -> [in, out]; written as matrices.
POINT = Transform("dense", lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T)
RESPONSE = Transform("response", lambda x: x.reshape(-1), lambda x: x.reshape(1, 1, 1, -1))
LAYER_SCALE = Transform("layer_scale", lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1))


class Config(TypedDict, total=False):
    """The fields of transformers' config.json that are read."""

    num_channels: int
    patch_size: _image.Side
    num_stages: int
    hidden_sizes: tuple[int, ...]
    depths: tuple[int, ...]
    hidden_act: str
    layer_norm_eps: float
    layer_scale_init_value: float
    drop_path_rate: float
    image_size: _image.Side


class Names(NamedTuple):
    """A layout's names, without `.weight` and `.bias`.

    Attributes:
      stem: of the convolution and the norm.
      down: stage -> of the norm and the convolution before it.
      block: (stage, index) -> of the depthwise convolution, the norm, both dense layers and the response norm; and the
        key of the layer scale.
      head: of the norm and the output layer.
      dense, grn, scale: transforms of dense kernels, response norms and layer scales.
    """

    stem: tuple[str, str]
    down: Callable[[int], tuple[str, str]]
    block: Callable[[int, int], tuple[str, ...]]
    head: tuple[str, str]
    dense: Transform = DENSE
    grn: Transform = IDENTITY
    scale: Transform = IDENTITY


def _hf_names(port: Port) -> Names:
    prefix = PREFIXES[port.options.grn]

    def block(stage: int, i: int) -> tuple[str, ...]:
        name = f"{prefix}encoder.stages.{stage}.layers.{i}"
        parts = ("dwconv", "layernorm", "pwconv1", "pwconv2", "grn", "layer_scale_parameter")
        return tuple(f"{name}.{part}" for part in parts)

    def down(stage: int) -> tuple[str, str]:
        name = f"{prefix}encoder.stages.{stage}.downsampling_layer"
        return f"{name}.0", f"{name}.1"

    stem = (f"{prefix}embeddings.patch_embeddings", f"{prefix}embeddings.layernorm")
    return Names(stem, down, block, (f"{prefix}layernorm", "classifier"), grn=RESPONSE)


def _torchvision_names(port: Port) -> Names:
    if port.options.grn:
        raise InputError("torchvision has no ConvNeXt with grn=True; use the layout 'hf'")

    def block(stage: int, i: int) -> tuple[str, ...]:
        name = f"features.{2 * stage + 1}.{i}"
        return *(f"{name}.block.{place}" for place in (0, 2, 3, 5)), "", f"{name}.layer_scale"

    def down(stage: int) -> tuple[str, str]:
        return f"features.{2 * stage}.0", f"features.{2 * stage}.1"

    return Names(("features.0.0", "features.0.1"), down, block, ("classifier.0", "classifier.2"), scale=LAYER_SCALE)


def _timm_names(port: Port) -> Names:
    def block(stage: int, i: int) -> tuple[str, ...]:
        name = f"stages.{stage}.blocks.{i}"
        return tuple(f"{name}.{part}" for part in ("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "mlp.grn", "gamma"))

    def down(stage: int) -> tuple[str, str]:
        return f"stages.{stage}.downsample.0", f"stages.{stage}.downsample.1"

    return Names(("stem.0", "stem.1"), down, block, ("head.norm", "head.fc"), dense=POINT)


def _keys(names: Callable[[Port], Names]) -> Callable[[Port], dict[str, Key]]:
    """The key table of a layout."""

    def keys(port: Port) -> dict[str, Key]:
        of, table = names(port), {}

        def layer(path: str, name: str, leaf: str = "kernel", turn: Transform = CONV, bias: Transform = IDENTITY):
            table[f"params/{path}/{leaf}"] = Key(f"{name}.weight", turn)
            table[f"params/{path}/bias"] = Key(f"{name}.bias", bias)

        layer("stem/conv", of.stem[0])
        layer("stem/norm", of.stem[1], "scale", IDENTITY)
        for unit, stage, i in _blocks(port):
            if stage and not i:
                layer(f"{unit}/down/norm", of.down(stage)[0], "scale", IDENTITY)
                layer(f"{unit}/down/conv", of.down(stage)[1])
            depthwise, norm, fc1, fc2, grn, scale = of.block(stage, i)
            layer(f"{unit}/depthwise", depthwise, "window", DEPTHWISE)
            layer(f"{unit}/norm", norm, "scale", IDENTITY)
            layer(f"{unit}/mlp/fc1", fc1, turn=of.dense)
            layer(f"{unit}/mlp/fc2", fc2, turn=of.dense)
            if port.options.grn:
                layer(f"{unit}/mlp/grn", grn, "scale", of.grn, of.grn)
            else:
                table[f"params/{unit}/scale"] = Key(scale, of.scale)
        layer("head/norm", of.head[0], "scale", IDENTITY)
        layer("head/out", of.head[1], turn=DENSE)
        return table

    return keys


def _blocks(port: Port) -> Iterator[tuple[str, int, int]]:
    """Yields (unit, stage, index within the stage) of every block."""
    places = ((stage, i) for stage, blocks in enumerate(port.options.stage_sizes) for i in range(blocks))
    return ((f"block_{n}", *place) for n, place in enumerate(places))


def _hf_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; absent fields have the defaults of `ConvNextConfig` and `ConvNextV2Config`."""
    expect(config, hidden_act="gelu")
    depths, widths = tuple(config.get("depths", (3, 3, 9, 3))), tuple(config.get("hidden_sizes", (96, 192, 384, 768)))
    if not len(depths) == len(widths) == config.get("num_stages", len(depths)):
        raise InputError(
            f"config.json: expected depths and hidden_sizes for the same stages, found {depths!r} and {widths!r} with "
            f"num_stages={config.get('num_stages')!r}"
        )
    patch = pair(config.get("patch_size", 4), "config.json: patch_size")
    if patch[0] != patch[1]:
        raise InputError(f"config.json: expected square patches, found patch_size={config['patch_size']!r}")
    grn, start = config.get("model_type") == "convnextv2", config.get("layer_scale_init_value", 1e-6)
    if not grn and start <= 0:
        raise InputError(f"config.json: layer_scale_init_value is {start!r}; jaxfer reads a ConvNeXt with layer scales")
    size = pair(config.get("image_size", 224), "config.json: image_size")
    return {
        "stage_sizes": depths,
        "widths": widths,
        "patch": patch[0],
        "grn": grn,
        **({} if grn else {"layer_scale_init": float(start)}),
        "head_epsilon": float(config.get("layer_norm_eps", 1e-12)),
        "stochastic_depth": float(config.get("drop_path_rate", 0.0)),
        **image_options(preprocessor, config.get("num_channels", 3), size, processor="ConvNext", fixed=False),
    }


def _hf_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    module, (height, width, channels) = port.options, port.encoding.size
    if module.epsilon != 1e-6:
        raise InputError(f"transformers' ConvNeXt has epsilon=1e-06, found {module.epsilon}; it can't be exported")
    return {
        "architectures": [f"ConvNext{'V2' if module.grn else ''}ForImageClassification"],
        "model_type": "convnextv2" if module.grn else "convnext",
        "num_channels": channels,
        "patch_size": module.patch,
        "num_stages": len(module.stage_sizes),
        "hidden_sizes": list(module.widths),
        "depths": list(module.stage_sizes),
        "hidden_act": "gelu",
        "layer_norm_eps": module.head_epsilon,
        **({} if module.grn else {"layer_scale_init_value": module.layer_scale_init}),
        "drop_path_rate": module.stochastic_depth,
        "image_size": height if height == width else [height, width],
        **labelled(port, labels),
    }


def _hf_bare(shapes: Shapes, options: Mapping[str, Any]) -> Facts:
    width, channels, patch, _ = shapes["embeddings.patch_embeddings.weight"]
    stages = range(count(shapes, r"encoder\.stages\.(\d+)\..*"))
    downs = (shapes[f"encoder.stages.{i}.downsampling_layer.1.weight"][0] for i in stages[1:])
    grn = "encoder.stages.0.layers.0.grn.weight" in shapes
    config = {
        "model_type": "convnextv2" if grn else "convnext",
        "num_channels": channels,
        "patch_size": patch,
        "num_stages": len(stages),
        "hidden_sizes": [width, *downs],
        "depths": [count(shapes, rf"encoder\.stages\.{i}\.layers\.(\d+)\..*") for i in stages],
    }
    return config, {"head_epsilon": "layer_norm_eps", "image": "image_size"}


def _bare_options(
    stem: str, stage: str, down: str, kind: str
) -> Callable[[Mapping[str, Any], Mapping[str, Any], Shapes], dict[str, Any]]:
    """Options from tensor shapes alone, and how images are prepared from `input` of a config.json.

    Args:
      stem: key of the stem's convolution.
      stage: pattern of keys whose groups are a stage's number and a block's, both in order.
      down: pattern of keys of the convolutions between stages, whose group orders them.
      kind: whose names they are.
    """

    def options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
        places = {tuple(map(int, hit.groups())) for key in shapes if (hit := re.fullmatch(stage, key))}
        if len(shapes.get(stem, ())) != 4 or not places:
            raise InputError(
                f"expected a ConvNeXt under {kind} names ({stem}, ...), found "
                f"{', '.join(sorted(shapes)[:3]) or 'no tensor'}; name another layout"
            )
        width, channels, patch, _ = shapes[stem]
        downs = sorted((int(hit[1]), shapes[key][0]) for key in shapes if (hit := re.fullmatch(down, key)))
        stated = config.get("input", {})
        size = pair(stated["size"], "config.json: input.size") if "size" in stated else (224, 224)
        return {
            "stage_sizes": tuple(sum(place[0] == i for place in places) for i in sorted({s for s, _ in places})),
            "widths": (width, *(width for _, width in downs)),
            "patch": patch,
            "grn": any(".grn." in key for key in shapes),
            "epsilon": float(config.get("norm_eps", 1e-6)),
            "head_epsilon": float(config.get("norm_eps", 1e-6)),
            **input_options(config),
            **image_options(preprocessor, channels, size, processor="ConvNext", fixed=False),
        }

    return options


def _torchvision_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """A config.json for `_bare_options` to read back, with the labels; no library defines this format."""
    return own_config(port, "convnext", "torchvision", labels)


def _timm_config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    raise InputError("timm folders can be read but not written; use --format=hf")


V1, V2 = "atto|femto|pico|nano|tiny|small|base|large|xlarge|xxlarge", "atto|femto|pico|nano|tiny|small|base|large|huge"

LAYOUTS = (
    Layout(
        name="hf",
        family="convnext",
        model_types=("convnext", "convnextv2"),
        keys=_keys(_hf_names),
        options=_hf_options,
        config=_hf_config,
        preprocessor=image_processor,
        entry="embeddings.patch_embeddings.weight",
        facts=Config,
        processor=_image.Preprocessor,
        optional=(r"classifier\..*",),
        prefixes=PREFIXES,
        bare=_hf_bare,
    ),
    Layout(
        name="torchvision",
        family="convnext",
        model_types=(),
        keys=_keys(_torchvision_names),
        options=_bare_options(
            "features.0.0.weight",
            r"features\.(\d+)\.(\d+)\.layer_scale",
            r"features\.([2468])\.1\.weight",
            "torchvision's",
        ),
        config=_torchvision_config,
        preprocessor=image_processor,
        entry="features.0.0.weight",
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"classifier\.2\..*",),
    ),
    Layout(
        name="timm",
        family="convnext",
        model_types=(),
        keys=_keys(_timm_names),
        options=_bare_options(
            "stem.0.weight",
            r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.weight",
            r"stages\.(\d+)\.downsample\.1\.weight",
            "timm's",
        ),
        config=_timm_config,
        preprocessor=image_processor,
        entry="stem.0.weight",
        facts=_image.OwnConfig,
        processor=_image.Preprocessor,
        optional=(r"head\.fc\..*",),
        timm=Timm(
            names=rf"convnext_({V1})|convnextv2_({V2})",
            shown="convnext_SIZE and convnextv2_SIZE (atto to huge)",
            pool="avg",
            stated=lambda hit: {"norm_eps": 1e-5} if hit[1] == "xxlarge" else {},
        ),
    ),
)
