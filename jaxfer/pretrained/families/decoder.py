"""Llama, Mistral, Qwen2, Qwen3, Gemma and Gemma 3 in Hugging Face's layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.decoder import Options
from jaxfer.models.heads import NEXT
from jaxfer.models.port import Port
from jaxfer.pretrained.families import _causal
from jaxfer.pretrained.layout import DENSE, Key, Layout, Shapes, heads_in, heads_out

FULL, LOCAL = "full_attention", "sliding_attention"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """What transformers' classes of one `model_type` have, and assume where config.json says nothing.

    Attributes:
      classes: their name, in front of `ForSequenceClassification`.
      title: the model's in errors.
      key_heads, head_width, positions, tied, pad: assumed; None: as many as `heads`, the width divided by them, no pad.
      window: assumed; None: where it is stated alone.
      fixed: options of ours that go with it.
      activation: field of the MLP's activation, and its value.
    """

    classes: str
    title: str
    key_heads: int | None = None
    head_width: int | None = None
    positions: int
    tied: bool = False
    pad: int | None = None
    window: int | None = None
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    activation: tuple[str, str] = ("hidden_act", "silu")


GEMMA = {"norm": "rms_1p", "embedding_scale": True}
KINDS = {
    "llama": Kind(classes="Llama", title="Llama", positions=2048),
    "mistral": Kind(classes="Mistral", title="Mistral", key_heads=8, positions=131072, window=4096),
    "qwen2": Kind(classes="Qwen2", title="Qwen2", key_heads=32, positions=32768, window=4096, fixed={"qkv_bias": True}),
    "qwen3": Kind(
        **dict(classes="Qwen3", title="Qwen3", key_heads=32, head_width=128, positions=32768, window=4096),
        fixed={"qk_norm": True},
    ),
    "gemma": Kind(
        **dict(classes="Gemma", title="Gemma", key_heads=16, head_width=256, positions=8192, tied=True, pad=0),
        activation=("hidden_act", "gelu_pytorch_tanh"),
        fixed=GEMMA,
    ),
    "gemma3_text": Kind(
        **dict(classes="Gemma3Text", title="Gemma 3", key_heads=4, head_width=256, positions=131072, tied=True, pad=0),
        window=4096,
        activation=("hidden_activation", "gelu_pytorch_tanh"),
        fixed={**GEMMA, "order": "sandwich", "qk_norm": True},
    ),
}
NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None
    intermediate_size: int
    head_dim: int | None
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_local_base_freq: float
    rope_scaling: dict[str, Any] | None
    rope_parameters: dict[str, Any] | None
    sliding_window: int | None
    use_sliding_window: bool | None
    max_window_layers: int
    sliding_window_pattern: int
    layer_types: tuple[str, ...] | None
    query_pre_attn_scalar: int
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool


def keys(port: Port) -> dict[str, Key]:
    """The key table."""
    options, table = port.options, {"params/stem/word/embedding": Key("model.embed_tokens.weight")}
    split, shared = heads_out(options.heads), heads_out(options.key_heads)
    norms = {"norm_1": "input_layernorm", "norm_2": "post_attention_layernorm"}
    if options.order == "sandwich":
        norms = {
            **{"norm_1": "input_layernorm", "post_1": "post_attention_layernorm"},
            **{"norm_2": "pre_feedforward_layernorm", "post_2": "post_feedforward_layernorm"},
        }
    if options.qk_norm:
        norms |= {"attn/query_norm": "self_attn.q_norm", "attn/key_norm": "self_attn.k_norm"}
    for i in range(options.layers):
        block, layer = f"params/block_{i}", f"model.layers.{i}."
        for name, key, heads in (("query", "q", split), ("key", "k", shared), ("value", "v", shared)):
            table[f"{block}/attn/{name}/kernel"] = Key(f"{layer}self_attn.{key}_proj.weight", heads)
            if options.qkv_bias:
                table[f"{block}/attn/{name}/bias"] = Key(f"{layer}self_attn.{key}_proj.bias", heads)
        others = {"attn/out": "self_attn.o_proj", "mlp/fc1": "mlp.gate_proj"}
        for name, key in {**others, "mlp/gate": "mlp.up_proj", "mlp/fc2": "mlp.down_proj"}.items():
            kernel = heads_in(options.heads) if name == "attn/out" else DENSE
            table[f"{block}/{name}/kernel"] = Key(f"{layer}{key}.weight", kernel)
            if options.bias:
                table[f"{block}/{name}/bias"] = Key(f"{layer}{key}.bias")
        table |= {f"{block}/{name}/scale": Key(f"{layer}{key}.weight") for name, key in norms.items()}
    table["params/head/norm/scale"] = Key("model.norm.weight")
    return table | _causal.head_keys(port, token_out="score")


def options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options, except the tokenizer; anything that is not computed is refused."""
    kind = KINDS[config["model_type"]]
    _causal.needed(config, NEEDED, kind.title)
    _causal.fixed(config, use_bidirectional_attention=False, attn_logit_softcapping=0, final_logit_softcapping=0)
    width, layers, heads = (config[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    key_heads = config.get("num_key_value_heads", kind.key_heads)
    field, usual = kind.activation
    activation = config.get(field) or usual
    biases = {"qkv_bias": bool(config.get("attention_bias")), "bias": bool(config.get("mlp_bias"))}
    if config["model_type"] == "qwen2":  # has no such fields
        biases = {"bias": False}
    elif biases["qkv_bias"] != biases["bias"]:
        raise InputError(
            f"config.json: attention_bias={biases['qkv_bias']} and mlp_bias={biases['bias']} differ, which is not "
            "supported; both or neither are"
        )
    windowed = _windowed(config, kind, layers)
    found = {
        "vocab": config["vocab_size"],
        "width": width,
        "layers": layers,
        "heads": heads,
        "mlp_width": config["intermediate_size"],
        "key_heads": heads if key_heads is None else key_heads,
        "head_width": config.get("head_dim", kind.head_width) or 0,
        "positions": config.get("max_position_embeddings", kind.positions),
        # Gemma's first files say gelu, and mean the approximation.
        "activation": "gelu_pytorch_tanh" if kind.title == "Gemma" and activation == "gelu" else activation,
        "epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "tied": bool(config.get("tie_word_embeddings", kind.tied)),
        "pad": _causal.padding(config, kind.pad),
        "attention_dropout": float(config.get("attention_dropout") or 0.0),
        **biases,
        **kind.fixed,
        **({"score_width": config.get("query_pre_attn_scalar", 256)} if kind.title == "Gemma 3" else {}),
    }
    if found["head_width"] * heads == width:
        found["head_width"] = 0
    if windowed:
        found |= {"window": config.get("sliding_window", kind.window), "windowed": windowed}
    found |= _rotary(config, kind, found["positions"], bool(windowed))
    return {**found, **_causal.read(config, found["positions"])}


def _windowed(config: Mapping[str, Any], kind: Kind, layers: int) -> tuple[int, ...]:
    """The layers that see a window alone."""
    if kind.window is None or config.get("sliding_window", kind.window) is None:
        return ()
    if kind.title == "Mistral":
        return tuple(range(layers))
    if kind.title != "Gemma 3" and not config.get("use_sliding_window"):
        return ()
    if config.get("layer_types"):
        return tuple(i for i, name in enumerate(config["layer_types"]) if name == LOCAL)
    if kind.title == "Gemma 3":
        return tuple(i for i in range(layers) if (i + 1) % config.get("sliding_window_pattern", 6))
    return tuple(range(config.get("max_window_layers", 28), layers))


def _rotary(config: Mapping[str, Any], kind: Kind, positions: int, local: bool) -> dict[str, Any]:
    """Rotary positions, as files state them before and since transformers 5."""
    since = dict(config.get("rope_parameters") or {})
    nested = FULL in since or LOCAL in since
    stated = {**(since.get(FULL) or {} if nested else since), **(config.get("rope_scaling") or {})}
    theta = stated.get("rope_theta", config.get("rope_theta", 1e6 if kind.title == "Gemma 3" else 1e4))
    found = {"theta": float(theta)}
    if kind.title == "Gemma 3" and local:
        of = since.get(LOCAL) or {} if nested else {}
        if of.get("rope_type", "default") != "default":
            raise InputError(f"config.json: rope_type {of['rope_type']!r} of {LOCAL} is not supported")
        found["local_theta"] = float(of.get("rope_theta", config.get("rope_local_base_freq", 1e4)))
    _causal.fixed({**config, **stated}, partial_rotary_factor=1.0)
    scaling = stated.get("rope_type", stated.get("type", "default"))
    if scaling == "linear":
        return {**found, "rope_factor": float(stated["factor"])}
    if scaling == "llama3":
        tokens = stated.get("original_max_position_embeddings", positions)
        names = ("factor", "low_freq_factor", "high_freq_factor")
        return {**found, "rope_llama3": (*(float(stated[name]) for name in names), float(tokens))}
    if scaling != "default":
        raise InputError(f"config.json: rope_type {scaling!r} is not supported; expected default, linear or llama3")
    return found


def model_type(options: Options) -> str:
    """The `model_type` whose classes compute this; `InputError` where there is none."""
    has = {name: getattr(options, name) for name in ("norm", "embedding_scale", "order", "qk_norm")}
    has["biases"] = {(False, False): "none", (True, False): "qkv", (True, True): "all"}.get(
        (options.qkv_bias, options.bias), "others alone"
    )
    plain = {"norm": "rms", "embedding_scale": False, "order": "pre", "qk_norm": False, "biases": "none"}
    every, local = set(range(options.layers)), set(options.windowed)
    window = "none" if not local else "all" if local == every else "some"
    forms = {
        "llama": (plain, ("none",)),
        "mistral": (plain, ("all",)),
        "qwen2": ({**plain, "biases": "qkv"}, ("none", "all", "some")),
        "qwen3": ({**plain, "qk_norm": True}, ("none", "all", "some")),
        "gemma": ({**plain, **GEMMA}, ("none",)),
        "gemma3_text": ({**plain, **KINDS["gemma3_text"].fixed}, ("none", "all", "some")),
    }
    if has == {**plain, "biases": "all"} and window == "none":
        return "llama"
    found = [name for name, (form, windows) in forms.items() if has == form and window in windows]
    own = [name for name in found if name == "gemma3_text" or not (options.score_width or options.local_theta)]
    if not own:
        shown = ", ".join(f"{name}={value!r}" for name, value in has.items())
        raise InputError(
            f"transformers has no decoder with {shown}, windows in {window} of the layers; it has those of "
            f"{', '.join(KINDS)}"
        )
    return own[0]


def architecture(port: Port) -> dict[str, Any]:
    """config.json without the head; names that transformers reads before and since its release 5."""
    options = port.options
    name = model_type(options)
    kind = KINDS[name]
    stated: dict[str, Any] = {
        "model_type": name,
        "vocab_size": options.vocab,
        "hidden_size": options.width,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "num_key_value_heads": options.key_heads,
        "intermediate_size": options.mlp_width,
        "head_dim": options.channels,
        "max_position_embeddings": options.positions,
        kind.activation[0]: options.activation,
        "rms_norm_eps": options.epsilon,
        "attention_dropout": options.attention_dropout,
        "rope_theta": options.theta,
        "rope_scaling": None,
        # Tokens that begin and end texts are the tokenizer's; those of the class may lie beyond the vocabulary.
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if options.rope_llama3:
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        values = (*options.rope_llama3[:3], int(options.rope_llama3[3]))
        stated["rope_scaling"] = {"rope_type": "llama3", **dict(zip(names, values, strict=True))}
    elif options.rope_factor != 1.0:
        stated["rope_scaling"] = {"rope_type": "linear", "factor": options.rope_factor}
    if name == "llama":
        stated |= {"attention_bias": options.qkv_bias, "mlp_bias": options.bias}
    if name != "llama" and name != "gemma":
        stated["sliding_window"] = options.window or None
        types = [LOCAL if i in options.windowed else FULL for i in range(options.layers)]
        stated |= {} if name == "mistral" else {"layer_types": types}
    if name.startswith("qwen"):
        stated["use_sliding_window"] = bool(options.windowed)
    if name == "gemma3_text":
        stated["query_pre_attn_scalar"] = options.score_width or options.channels
        stated["rope_local_base_freq"] = options.local_theta or options.theta
    return stated


def config(port: Port, given: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """config.json with the head."""
    return {**architecture(port), **_causal.heads_stated(port, labels, _classes(port))}


def _classes(port: Port) -> str:
    name = KINDS[model_type(port.options)].classes
    # Gemma 3's other classes of texts are called without Text.
    return "Gemma3" if name == "Gemma3Text" and port.module.head == NEXT else name


LAYOUTS = (
    Layout(
        name="hf",
        family="decoder",
        model_types=tuple(KINDS),
        keys=keys,
        options=options,
        config=config,
        preprocessor=lambda port: {},
        entry="embed_tokens.weight",
        facts=Config,
        optional=(r"score\.(weight|bias)", r"lm_head\.weight"),
        ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
        prefixes=("model.",),
        encoder=lambda port: ({**architecture(port), **_causal.bare_stated(port, _classes(port))}, {}),
    ),
)
