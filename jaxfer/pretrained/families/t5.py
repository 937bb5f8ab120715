"""T5 and mT5 in Hugging Face's layout: whole models, encoders alone, and classifiers of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.heads import EMBEDDING, SEQ2SEQ, TOKEN
from jaxfer.models.port import Port
from jaxfer.pretrained.families import _causal
from jaxfer.pretrained.layout import DENSE, Key, Layout, Shapes, heads_in, heads_out
from jaxfer.pretrained.sentence import PREFIX

FIELDS = {
    "vocab": "vocab_size",
    "width": "d_model",
    "layers": "num_layers",
    "heads": "num_heads",
    "head_width": "d_kv",
    "mlp_width": "d_ff",
}
HEAD = "lm_head.weight"
GATED = "gated-"
POSITIONS = 16384  # that a text may have: the buckets hold all distances, and only memory limits it


class Config(TypedDict, total=False):
    """The fields of config.json that are read."""

    vocab_size: int
    d_model: int
    num_layers: int
    num_decoder_layers: int | None
    num_heads: int
    d_kv: int
    d_ff: int
    feed_forward_proj: str
    relative_attention_num_buckets: int
    relative_attention_max_distance: int
    layer_norm_epsilon: float
    dropout_rate: float
    classifier_dropout: float
    tie_word_embeddings: bool
    scale_decoder_outputs: bool
    pad_token_id: int | None
    decoder_start_token_id: int | None


def keys(port: Port) -> dict[str, Key]:
    """The key table."""
    options, head = port.options, port.module.head
    prefix = "transformer." if head == TOKEN else ""
    table = {"params/encoder_stem/word/embedding": Key(f"{prefix}shared.weight")}
    split, joined = heads_out(options.heads), heads_in(options.heads)

    def attention(leaf: str, key: str) -> None:
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
            table[f"params/{leaf}/{ours}/kernel"] = Key(f"{key}.{theirs}.weight", split)
        table[f"params/{leaf}/out/kernel"] = Key(f"{key}.o.weight", joined)

    def norm(leaf: str, key: str) -> None:
        table[f"params/{leaf}/scale"] = Key(f"{key}.weight")

    def trunk(name: str, layers: int) -> None:
        first = f"{prefix}{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table[f"params/{name}_stem/relative"] = Key(first)
        for i in range(layers):
            block, layer = f"{name}_block_{i}", f"{prefix}{name}.block.{i}.layer."
            attention(f"{block}/attn", f"{layer}0.SelfAttention")
            norm(f"{block}/norm_1", f"{layer}0.layer_norm")
            if name == "decoder":
                attention(f"{block}/cross", f"{layer}1.EncDecAttention")
                norm(f"{block}/norm_cross", f"{layer}1.layer_norm")
            last = f"{layer}{1 + (name == 'decoder')}"
            norm(f"{block}/norm_2", f"{last}.layer_norm")
            parts = {"fc1": "wi_0", "gate": "wi_1"} if options.gated else {"fc1": "wi"}
            for ours, theirs in {**parts, "fc2": "wo"}.items():
                table[f"params/{block}/mlp/{ours}/kernel"] = Key(f"{last}.DenseReluDense.{theirs}.weight", DENSE)

    trunk("encoder", options.layers)
    norm("encoder_norm/norm", f"{prefix}encoder.final_layer_norm")
    if head == SEQ2SEQ:
        trunk("decoder", options.decoders)
        norm("head/norm", "decoder.final_layer_norm")
        return table if options.tied else {**table, "params/head/out/kernel": Key(HEAD, DENSE)}
    if options.projection and head != TOKEN:
        table["params/head/dense/kernel"] = Key(f"{PREFIX}linear.weight", DENSE)
        if options.projection_bias:
            table["params/head/dense/bias"] = Key(f"{PREFIX}linear.bias")
    if head != EMBEDDING:
        table |= {
            "params/head/out/kernel": Key("classifier.weight", DENSE),
            "params/head/out/bias": Key("classifier.bias"),
        }
    return table


def options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options, except the tokenizer; anything that is not computed is refused."""
    _causal.needed(config, FIELDS.values(), "T5")
    multilingual = config.get("model_type") == "mt5"
    mlp = config.get("feed_forward_proj", "gated-gelu" if multilingual else "relu")
    gated = mlp.startswith(GATED)
    activation = mlp.removeprefix(GATED)
    # transformers means the approximate one by the word, where the MLP is gated.
    activation = "gelu_new" if mlp == "gated-gelu" else activation
    # transformers 5 ties all it can, and states by a field of its own whether the head's input is scaled.
    scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True) is not False)
    scaled = bool(scaled) and not multilingual
    dropout = float(config.get("dropout_rate", 0.1))
    classifier = float(config.get("classifier_dropout", 0.0))
    pad = _causal.padding(config, 0)
    end = config.get("eos_token_id", 1)
    start = config.get("decoder_start_token_id")
    return {
        **{option: config[field] for option, field in FIELDS.items()},
        "decoder_layers": _decoders(config),
        "gated": gated,
        "activation": activation,
        "buckets_of": config.get("relative_attention_num_buckets", 32),
        "farthest": config.get("relative_attention_max_distance", 128),
        "epsilon": float(config.get("layer_norm_epsilon", 1e-6)),
        "tied": scaled or HEAD not in shapes,
        "scaled": scaled,
        "positions": POSITIONS,
        "dropout": dropout,
        "classifier_dropout": None if classifier == dropout else classifier,
        "pool": config.get("pooling_mode") or "mean",
        "max_length": _causal.LONGEST,
        "pad": pad,
        "start": pad if start is None else start,
        "end": end[0] if isinstance(end, list) else end,
    }


def _decoders(config: Mapping[str, Any]) -> int:
    stated = config.get("num_decoder_layers")
    return 0 if stated in (None, config["num_layers"]) else stated


def architecture(port: Port) -> dict[str, Any]:
    """config.json without the head."""
    ours = port.options
    activation = "gelu" if ours.gated and ours.activation == "gelu_new" else ours.activation
    if ours.gated and ours.activation == "gelu":
        raise InputError("transformers' T5 has no gated MLP with the exact gelu; use activation='gelu_new'")
    return {
        "model_type": "t5",
        **{field: getattr(ours, option) for option, field in FIELDS.items()},
        "num_decoder_layers": ours.decoders,
        "feed_forward_proj": f"{GATED if ours.gated else ''}{activation}",
        "relative_attention_num_buckets": ours.buckets_of,
        "relative_attention_max_distance": ours.farthest,
        "layer_norm_epsilon": ours.epsilon,
        "dropout_rate": ours.dropout,
        "classifier_dropout": ours.drop_classifier,
        # Old versions tie, and scale, by the first field; version 5 ties what is the same, and scales by the second.
        "tie_word_embeddings": ours.scaled,
        "scale_decoder_outputs": ours.scaled,
        "pad_token_id": ours.pad,
        "eos_token_id": ours.end,
        "decoder_start_token_id": ours.start,
        "is_encoder_decoder": port.module.head == SEQ2SEQ,
        "dtype": "float32",
    }


def config(port: Port, given: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """config.json with the head."""
    ours, head = port.options, port.module.head
    if head == SEQ2SEQ:
        if ours.tied != ours.scaled:
            raise InputError(
                f"transformers' T5 scales the head's input where the head is tied, found tied={ours.tied} and "
                f"scaled={ours.scaled}; set both alike"
            )
        return {**architecture(port), "architectures": ["T5ForConditionalGeneration"]}
    if head != TOKEN:
        raise InputError(
            "transformers has no classifier of texts on T5's encoder alone; use --format=sentence-transformers instead"
        )
    called = list(labels) or [f"LABEL_{i}" for i in range(port.outputs)]
    return {
        **architecture(port),
        "architectures": ["T5ForTokenClassification"],
        "id2label": {str(i): name for i, name in enumerate(called)},
        "label2id": {name: i for i, name in enumerate(called)},
    }


def tied(port: Port) -> dict[str, str]:
    """Tensors that are the word embedding once more."""
    prefix = "transformer." if port.module.head == TOKEN else ""
    same = [f"{prefix}encoder.embed_tokens.weight"]
    if port.module.head == SEQ2SEQ:
        same += ["decoder.embed_tokens.weight", *([HEAD] if port.options.tied else [])]
    return dict.fromkeys(same, f"{prefix}shared.weight")


LAYOUTS = (
    Layout(
        name="hf",
        family="t5",
        model_types=("t5", "mt5"),
        keys=keys,
        options=options,
        config=config,
        preprocessor=lambda port: {},
        entry="encoder.block.0.layer.0.SelfAttention.q.weight",
        facts=Config,
        optional=(r"classifier\..*", r"lm_head\.weight", r"dense\.linear\..*"),
        ignored=(
            r"(transformer\.)?(encoder|decoder)\.embed_tokens\.weight",
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
            # An encoder alone leaves the decoder out.
            r"decoder\..*",
            r"classification_head\..*|qa_outputs\..*",
        ),
        prefixes=("transformer.",),
        tied=tied,
        encoder=lambda port: ({**architecture(port), "architectures": ["T5EncoderModel"]}, {}),
    ),
)
