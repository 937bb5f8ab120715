"""PatchTST in Hugging Face's layout, of a classifier or a forecast of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.heads import FORECAST
from jaxfer.models.patchtst import Options, sinusoids
from jaxfer.models.port import Port
from jaxfer.pretrained.families._image import counters, expect, labelled
from jaxfer.pretrained.layout import DENSE, IDENTITY, Key, Layout, Shapes, Transform, heads_in, heads_out

POSITIONS = "model.encoder.positional_encoder.position_enc"
TOKEN = Transform("token", lambda x: x.reshape(-1), lambda x: x.reshape(1, 1, 1, -1))
NORMS = {"batch": "batchnorm", "layer": "layernorm"}
POSITION_TYPES = {"sincos": "sincos", "learned": "random"}
DEFAULTS = Options()
FORECASTER = "PatchTSTForPrediction"
# Settings of the scalers that transformers reads where a config.json has them.
SCALERS = ("scaling_dim", "keepdim", "minimum_scale", "default_scale")
# {option: (field of config.json, default of `PatchTSTConfig`)} of what is called otherwise there.
FIELDS: dict[str, tuple[str, Any]] = {
    "length": ("context_length", 32),
    "channels": ("num_input_channels", 1),
    "patch": ("patch_length", 1),
    "stride": ("patch_stride", 1),
    "width": ("d_model", 128),
    "layers": ("num_hidden_layers", 3),
    "heads": ("num_attention_heads", 4),
    "mlp_width": ("ffn_dim", 512),
    "mlp_bias": ("bias", True),
    "activation": ("activation_function", "gelu"),
    "epsilon": ("norm_eps", 1e-5),
    "shared": ("share_embedding", True),
    "mixing": ("channel_attention", False),
    "position_dropout": ("positional_dropout", 0.0),
    "dropout": ("path_dropout", 0.0),
    "attention_dropout": ("attention_dropout", 0.0),
    "mlp_dropout": ("ff_dropout", 0.0),
    "head_dropout": ("head_dropout", 0.0),
}


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    context_length: int
    num_input_channels: int
    patch_length: int
    patch_stride: int
    d_model: int
    num_hidden_layers: int
    num_attention_heads: int
    ffn_dim: int
    bias: bool
    activation_function: str
    norm_type: str
    norm_eps: float
    pre_norm: bool
    share_embedding: bool
    share_projection: bool
    channel_attention: bool
    positional_encoding_type: str
    use_cls_token: bool
    pooling_type: str | None
    scaling: str | bool | None
    loss: str | None
    positional_dropout: float
    path_dropout: float
    attention_dropout: float
    ff_dropout: float
    head_dropout: float


def _keys(port: Port) -> dict[str, Key]:
    options = port.options
    split, joined = heads_out(options.heads), heads_in(options.heads)
    table: dict[str, Key] = {}

    def layer(leaf: str, key: str, kernel: Transform = DENSE, bias: Transform | None = IDENTITY) -> None:
        table[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel)
        if bias is not None:
            table[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias)

    def norm(leaf: str, key: str) -> None:
        key = f"{key}.batchnorm" if options.norm == "batch" else key
        table[f"params/{leaf}/scale"], table[f"params/{leaf}/bias"] = Key(f"{key}.weight"), Key(f"{key}.bias")
        if options.norm == "batch":
            for name in ("mean", "var"):
                table[f"batch_stats/{leaf}/{name}"] = Key(f"{key}.running_{name}")

    embed = "model.encoder.embedder.input_embedding"
    if options.shared:
        layer("stem/embed", embed)
    else:
        for i in range(options.channels):
            layer(f"stem/embed_{i}", f"{embed}.{i}")
    if options.positions == "learned":
        table["params/stem/pos"] = Key(POSITIONS)
    if options.pool == "cls":
        table["params/stem/cls"] = Key("model.encoder.positional_encoder.cls_token", TOKEN)
    for i in range(options.layers):
        block, key = f"block_{i}", f"model.encoder.layers.{i}"
        for name, part in {"query": "q", "key": "k", "value": "v"}.items():
            layer(f"{block}/attn/{name}", f"{key}.self_attn.{part}_proj", split, split)
        layer(f"{block}/attn/out", f"{key}.self_attn.out_proj", joined)
        norm(f"{block}/norm_1", f"{key}.norm_sublayer1")
        if options.mixing:
            norm(f"{block}/norm_channels", f"{key}.norm_sublayer2")
        norm(f"{block}/norm_2", f"{key}.norm_sublayer3")
        bias = IDENTITY if options.mlp_bias else None
        layer(f"{block}/mlp/fc1", f"{key}.ff.0", bias=bias)
        layer(f"{block}/mlp/fc2", f"{key}.ff.3", bias=bias)
    if port.module.head == FORECAST:
        layer("head/out", "head.projection")
    else:  # a regression's layer has the other name
        table["params/head/out/kernel"] = Key("head.linear.weight", DENSE, ("head.projection.weight",))
        table["params/head/out/bias"] = Key("head.linear.bias", others=("head.projection.bias",))
    return table


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options; absent fields have `PatchTSTConfig`'s defaults."""
    _check(config)
    scaling = config.get("scaling", "std")
    found = {option: config.get(field, default) for option, (field, default) in FIELDS.items()}
    return {
        **{name: float(x) if isinstance(getattr(DEFAULTS, name), float) else x for name, x in found.items()},
        "norm": {theirs: ours for ours, theirs in NORMS.items()}[config.get("norm_type", "batchnorm")],
        "order": "pre" if config.get("pre_norm", True) else "post",
        "positions": {"sincos": "sincos", "random": "learned"}[config.get("positional_encoding_type", "sincos")],
        "scaling": "mean" if scaling is True else scaling or "none",
        "pool": "cls" if config.get("use_cls_token", False) else config.get("pooling_type", "mean") or "flatten",
    }


def _check(config: Mapping[str, Any]) -> None:
    """`InputError` for a field that says what the port has no word for."""
    for name in SCALERS:
        if config.get(name) is not None:
            raise InputError(f"config.json: {name}={config[name]!r} is not supported; jaxfer reads scalers without it")
    allowed = {
        "norm_type": tuple(NORMS.values()),
        "positional_encoding_type": tuple(POSITION_TYPES.values()),
        "pooling_type": ("mean", "max", None),
        "scaling": ("std", "mean", True, False, None),
        "activation_function": ("gelu", "relu"),
    }
    for name, values in allowed.items():
        if config.get(name, values[0]) not in values:
            shown = ", ".join(map(repr, values))
            raise InputError(f"config.json: expected {name} to be one of {shown}, found {config[name]!r}")
    classes = config.get("architectures") or ()
    if FORECASTER in classes or "PatchTSTForRegression" in classes:
        if config.get("loss", "mse") != "mse":
            raise InputError(
                f"config.json: loss={config['loss']!r} is a head that gives a distribution "
                f"({config.get('distribution_output', 'student_t')}); jaxfer reads heads that give points, loss='mse'"
            )
        expect(config, output_range=None)
    if FORECASTER in classes:
        expect(config, share_projection=True)


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    ours, forecast = port.options, port.module.head == FORECAST
    if not forecast and ours.pool == "flatten":
        raise InputError(
            "transformers' PatchTST classifiers pool patches by a class token, mean or max, this model reads all "
            "(pool='flatten'); predict with `jaxfer predict`"
        )
    if not forecast and not labels:
        raise InputError("a PatchTST of one number an example can't be exported; predict with `jaxfer predict`")
    if ours.encoding.normalize != "none":
        raise InputError(
            "transformers' PatchTST reads series as they are, this model has normalize='each'; train it with "
            "normalize='none' to export it"
        )
    width = {"prediction_length": port.outputs} if forecast else {"num_targets": port.outputs}
    return {
        "architectures": [FORECASTER if forecast else "PatchTSTForClassification"],
        "model_type": "patchtst",
        **{field: getattr(ours, option) for option, (field, _) in FIELDS.items()},
        "norm_type": NORMS[ours.norm],
        "pre_norm": ours.order == "pre",
        "positional_encoding_type": POSITION_TYPES[ours.positions],
        "scaling": None if ours.scaling == "none" else ours.scaling,
        "use_cls_token": ours.pool == "cls",
        "pooling_type": {"cls": "mean", "flatten": None}.get(ours.pool, ours.pool),
        "share_projection": True,
        "do_mask_input": False,
        "loss": "mse",
        **width,
        **({"dtype": "float32"} if forecast else labelled(port, labels)),
    }


def _constants(port: Port) -> dict[str, Any]:
    """Sinusoids, which transformers stores, and the batch counters."""
    ours, fixed = port.options, counters(_keys(port))
    if ours.positions == "sincos":
        fixed[POSITIONS] = sinusoids(ours.patches + (ours.pool == "cls"), ours.width)
    return fixed


LAYOUTS = (
    Layout(
        name="hf",
        family="patchtst",
        model_types=("patchtst",),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=lambda port: {},
        entry="encoder.layers.0.self_attn.q_proj.weight",
        facts=Config,
        optional=(r"head\..*",),
        ignored=(r".*\.num_batches_tracked",),
        prefixes=("model.",),
        constants=_constants,
    ),
)
