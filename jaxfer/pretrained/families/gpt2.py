"""GPT-2 in Hugging Face's layout, whose kernels are [in, out] and hold query, key and value side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.models.port import Port
from jaxfer.pretrained.families import _causal
from jaxfer.pretrained.layout import Key, Layout, Shapes, Transform

FIELDS = {"vocab": "vocab_size", "width": "n_embd", "layers": "n_layer", "heads": "n_head"}


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    vocab_size: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int | None
    n_positions: int
    activation_function: str
    layer_norm_epsilon: float
    resid_pdrop: float
    attn_pdrop: float
    tie_word_embeddings: bool


def _split(heads: int) -> Transform:
    """Query, key, value: weight [in, heads * d] <-> kernel [in, heads, d], bias [heads * d] <-> [heads, d]."""

    def load(x):
        return x.reshape(*x.shape[:-1], heads, -1)

    return Transform("split_heads", load, lambda x: x.reshape(*x.shape[:-2], -1))


def _joined(heads: int) -> Transform:
    """Attention's output layer: weight [heads * d, out] <-> kernel [heads, d, out]."""
    return Transform("joined_heads", lambda x: x.reshape(heads, -1, x.shape[-1]), lambda x: x.reshape(-1, x.shape[-1]))


def keys(port: Port) -> dict[str, Key]:
    """The key table."""
    options, prefix = port.options, "transformer."
    table = {
        "params/stem/word/embedding": Key(f"{prefix}wte.weight"),
        "params/stem/position/embedding": Key(f"{prefix}wpe.weight"),
    }
    split = _split(options.heads)
    for i in range(options.layers):
        block, layer = f"params/block_{i}", f"{prefix}h.{i}."
        for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
            for part, name in enumerate(("query", "key", "value")):
                table[f"{block}/attn/{name}/{ours}"] = Key(f"{layer}attn.c_attn.{theirs}", split, part=(part, 3))
            for name, key in {"mlp/fc1": "mlp.c_fc", "mlp/fc2": "mlp.c_proj"}.items():
                table[f"{block}/{name}/{ours}"] = Key(f"{layer}{key}.{theirs}")
        table[f"{block}/attn/out/kernel"] = Key(f"{layer}attn.c_proj.weight", _joined(options.heads))
        table[f"{block}/attn/out/bias"] = Key(f"{layer}attn.c_proj.bias")
        for name, key in (("norm_1", "ln_1"), ("norm_2", "ln_2")):
            table |= _norm(f"{block}/{name}", f"{layer}{key}")
    table |= _norm("params/head/norm", f"{prefix}ln_f")
    return table | _causal.head_keys(port, token_out="classifier")


def _norm(leaf: str, key: str) -> dict[str, Key]:
    return {f"{leaf}/scale": Key(f"{key}.weight"), f"{leaf}/bias": Key(f"{key}.bias")}


def options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options, except the tokenizer; anything that is not computed is refused."""
    _causal.needed(config, FIELDS.values(), "GPT-2")
    _causal.fixed(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    positions = config.get("n_positions", 1024)
    return {
        **{option: config[field] for option, field in FIELDS.items()},
        "mlp_width": config.get("n_inner") or 4 * config["n_embd"],
        "positions": positions,
        "activation": config.get("activation_function", "gelu_new"),
        "epsilon": float(config.get("layer_norm_epsilon", 1e-5)),
        "tied": bool(config.get("tie_word_embeddings", True)),
        "pad": _causal.padding(config),
        "dropout": float(config.get("resid_pdrop", 0.1)),
        "attention_dropout": float(config.get("attn_pdrop", 0.1)),
        **_causal.read(config, positions),
    }


def architecture(port: Port) -> dict[str, Any]:
    """config.json without the head."""
    options = port.options
    return {
        "model_type": "gpt2",
        **{field: getattr(options, option) for option, field in FIELDS.items()},
        "n_inner": options.mlp_width,
        "n_positions": options.positions,
        "n_ctx": options.positions,
        "activation_function": options.activation,
        "layer_norm_epsilon": options.epsilon,
        "resid_pdrop": options.dropout,
        "embd_pdrop": options.dropout,
        "attn_pdrop": options.attention_dropout,
        # Tokens that begin and end texts are the tokenizer's; those of the class may lie beyond the vocabulary.
        "bos_token_id": None,
        "eos_token_id": None,
    }


def config(port: Port, given: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """config.json with the head."""
    return {**architecture(port), **_causal.heads_stated(port, labels, "GPT2")}


LAYOUTS = (
    Layout(
        name="hf",
        family="gpt2",
        model_types=("gpt2",),
        keys=keys,
        options=options,
        config=config,
        preprocessor=lambda port: {},
        entry="wte.weight",
        facts=Config,
        optional=(r"score\.weight", r"classifier\.(weight|bias)", r"lm_head\.weight"),
        ignored=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
        prefixes=("transformer.",),
        prompts=("prefix_tuning",),
        transposed=r"h\.\d+\.(attn|mlp)\.\w+",
        encoder=lambda port: ({**architecture(port), **_causal.bare_stated(port, "GPT2")}, {}),
    ),
)
