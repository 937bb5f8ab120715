"""Whisper, encoder and decoder: Hugging Face's layout of a `WhisperForConditionalGeneration`, and CTranslate2's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.errors import InputError
from jaxfer.models.heads import EMBEDDING, SEQ2SEQ
from jaxfer.models.port import Port
from jaxfer.models.whisper_encoder import sinusoids
from jaxfer.pretrained.bare import count
from jaxfer.pretrained.families import whisper_encoder as encoder
from jaxfer.pretrained.layout import DENSE, IDENTITY, Key, Layout, Shapes, Transform, heads_in, heads_out

ENGLISH = 51864  # rows of the models of English alone; later ones have one token more for each thing they tell
# (start, prefix, end): of English alone <|notimestamps|>; else <|en|> <|transcribe|> <|notimestamps|>.
TOKENS = {True: (50257, (50362,), 50256), False: (50258, (50259, 50359, 50363), 50257)}
POSITIONS = f"model.{encoder.POSITIONS}"
SHARED, OUT = "model.decoder.embed_tokens.weight", "proj_out.weight"


class Config(encoder.Config, total=False):
    """The fields of config.json that are read."""

    vocab_size: int
    decoder_layers: int
    decoder_attention_heads: int
    decoder_ffn_dim: int
    max_target_positions: int
    scale_embedding: bool
    decoder_start_token_id: int
    pad_token_id: int | None
    forced_decoder_ids: list | None
    suppress_tokens: list | None
    begin_suppress_tokens: list | None


def _places(port: Port) -> dict[str, str]:
    """{path of a layer or norm of ours: the name that transformers has for it}, below `model.`."""
    table = {f"encoder_stem/conv_{i}": f"encoder.conv{i}" for i in (1, 2)}
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}

    def trunk(name: str, layers: int) -> None:
        for i in range(layers):
            block, layer = f"{name}_block_{i}", f"{name}.layers.{i}"
            kinds = {"attn": "self_attn", **({"cross": "encoder_attn"} if name == "decoder" else {})}
            for ours, theirs in kinds.items():
                table.update({f"{block}/{ours}/{part}": f"{layer}.{theirs}.{key}" for part, key in names.items()})
                place = "norm_1" if ours == "attn" else "norm_cross"
                table[f"{block}/{place}"] = f"{layer}.{theirs}_layer_norm"
            table[f"{block}/norm_2"] = f"{layer}.final_layer_norm"
            table.update({f"{block}/mlp/{part}": f"{layer}.{part}" for part in ("fc1", "fc2")})

    trunk("encoder", port.options.layers)
    table["encoder_norm/norm"] = "encoder.layer_norm"
    if port.module.head == SEQ2SEQ:
        trunk("decoder", port.options.decoders)
        table["head/norm"] = "decoder.layer_norm"
    return table


def _keys(port: Port) -> dict[str, Key]:
    options, table = port.options, {}
    for place, name in _places(port).items():
        key, end = f"model.{name}", place.rsplit("/", 1)[-1]
        if "norm" in end:
            table |= {f"params/{place}/scale": Key(f"{key}.weight"), f"params/{place}/bias": Key(f"{key}.bias")}
            continue
        heads = options.heads if place.startswith("encoder") else options.decoder_spec.heads
        kernel, bias = _transforms(end, heads)
        table[f"params/{place}/kernel"] = Key(f"{key}.weight", kernel)
        if end != "key":
            table[f"params/{place}/bias"] = Key(f"{key}.bias", bias)
    if port.module.head == SEQ2SEQ:
        table["params/decoder_stem/word/embedding"] = Key(SHARED)
        table["params/decoder_stem/position/embedding"] = Key("model.decoder.embed_positions.weight")
    elif port.module.head != EMBEDDING:
        table |= {
            "params/head/out/kernel": Key("classifier.weight", DENSE),
            "params/head/out/bias": Key("classifier.bias"),
        }
    return table


def _transforms(part: str, heads: int) -> tuple[Transform, Transform]:
    """Of the kernel and of the bias."""
    if part in ("query", "key", "value"):
        return heads_out(heads), heads_out(heads)
    if part == "out":
        return heads_in(heads), IDENTITY
    return (encoder.CONV_1D if part.startswith("conv") else DENSE), IDENTITY


def _options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options, except the tokenizer; absent fields have `WhisperConfig`'s defaults."""
    found = {name: x for name, x in encoder._options(config, preprocessor, shapes).items() if name != "projection"}
    vocab = config.get("vocab_size", 51865)
    start, prefix, end = TOKENS[vocab <= ENGLISH]
    if forced := config.get("forced_decoder_ids"):
        prefix = tuple(token for _, token in sorted(forced) if token is not None)
    ended = config.get("eos_token_id", end)
    ended = ended[0] if isinstance(ended, list) else ended
    pad = config.get("pad_token_id", ended)
    return {
        **found,
        "vocab": vocab,
        "decoder_layers": _other(config, "decoder_layers", found["layers"], 4),
        "decoder_heads": _other(config, "decoder_attention_heads", found["heads"], 6),
        "decoder_mlp_width": _other(config, "decoder_ffn_dim", found["mlp_width"], 1536),
        "target_positions": config.get("max_target_positions", 448),
        "target_length": min(128, config.get("max_target_positions", 448)),
        "scaled": bool(config.get("scale_embedding", False)),
        "start": config.get("decoder_start_token_id", start),
        "prefix": tuple(token for token in prefix if token < vocab),
        "end": ended,
        "pad": ended if pad is None else pad,
        "suppress": tuple(config.get("suppress_tokens") or ()),
        "begin_suppress": tuple(config.get("begin_suppress_tokens") or ()),
    }


def _other(config: Mapping[str, Any], field: str, encoders: int, usual: int) -> int:
    """0 where the decoder has the encoder's."""
    stated = config.get(field, usual)
    return 0 if stated == encoders else stated


def _config(port: Port, options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    ours = port.options
    if port.module.head != SEQ2SEQ:
        raise InputError(
            "transformers' Whisper classifiers are those of the model 'whisper_encoder'; predict with `jaxfer predict`"
        )
    spec = ours.decoder_spec
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": ours.vocab,
        "d_model": ours.width,
        "encoder_layers": ours.layers,
        "num_hidden_layers": ours.layers,
        "encoder_attention_heads": ours.heads,
        "encoder_ffn_dim": ours.mlp_width,
        "decoder_layers": ours.decoders,
        "decoder_attention_heads": spec.heads,
        "decoder_ffn_dim": spec.mlp_width,
        "num_mel_bins": ours.mels,
        "max_source_positions": ours.positions,
        "max_target_positions": ours.target_positions,
        "activation_function": "gelu",
        "scale_embedding": ours.scaled,
        "dropout": ours.dropout,
        "attention_dropout": ours.attention_dropout,
        "activation_dropout": ours.activation_dropout,
        "decoder_start_token_id": ours.start,
        "eos_token_id": ours.end,
        "bos_token_id": ours.end,
        "pad_token_id": ours.pad,
        "forced_decoder_ids": [[i + 1, token] for i, token in enumerate(ours.prefix)],
        "suppress_tokens": list(ours.suppress),
        "begin_suppress_tokens": list(ours.begin_suppress),
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _ct2_keys(port: Port) -> dict[str, Key]:
    """CTranslate2's names: query, key and value are one tensor, or key and value where they read the memory; the part
    of the key's bias is zero."""
    own = {"norm_1": "self_attention/layer_norm", "norm_2": "ffn/layer_norm", "norm_cross": "attention/layer_norm"}
    own |= {"attn/out": "self_attention/linear_1", "mlp/fc1": "ffn/linear_0", "mlp/fc2": "ffn/linear_1"}
    own |= {"cross/query": "attention/linear_0", "cross/out": "attention/linear_2"}
    parts = {f"attn/{name}": ("self_attention/linear_0", i, 3) for i, name in enumerate(("query", "key", "value"))}
    parts |= {f"cross/{name}": ("attention/linear_1", i, 2) for i, name in enumerate(("key", "value"))}
    ends = {"scale": "gamma", "bias": "beta"}
    table = {}
    for leaf, key in _keys(port).items():
        place, _, name = leaf.removeprefix("params/").rpartition("/")
        unit, _, inside = place.partition("/")
        trunk = unit.split("_")[0]
        end = ends[name] if "norm" in place.rsplit("/", 1)[-1] else {"kernel": "weight"}.get(name, name)
        layer = f"{trunk}/layer_{unit.rsplit('_', 1)[-1]}"
        if unit == "encoder_stem":
            table[leaf] = dataclasses.replace(key, name=f"encoder/{inside.replace('_', '')}/{end}")
        elif unit == "decoder_stem":
            word = "embeddings/weight" if inside == "word" else "position_encodings/encodings"
            table[leaf] = dataclasses.replace(key, name=f"decoder/{word}")
        elif unit == "encoder_norm" or (unit, inside) == ("head", "norm"):
            side = "encoder" if unit == "encoder_norm" else "decoder"
            table[leaf] = dataclasses.replace(key, name=f"{side}/layer_norm/{end}")
        elif inside in parts:
            tensor, *part = parts[inside]
            table[leaf] = dataclasses.replace(key, name=f"{layer}/{tensor}/{end}", part=tuple(part), axis=0)
        else:
            table[leaf] = dataclasses.replace(key, name=f"{layer}/{own[inside]}/{end}") if inside in own else key
    return table


def _ct2_options(config: Mapping[str, Any], preprocessor: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The port's options from tensor shapes, and the tokens that CTranslate2's config.json states."""
    found = encoder._ct2_options(config, preprocessor, shapes)
    if "decoder/embeddings/weight" not in shapes:
        raise InputError("expected a Whisper of CTranslate2 with a decoder, found no decoder/embeddings/weight")
    vocab, width = shapes["decoder/embeddings/weight"]
    start, prefix, end = TOKENS[vocab <= ENGLISH]
    layers, hidden = count(shapes, r"decoder/layer_(\d+)/.*"), shapes["decoder/layer_0/ffn/linear_0/weight"][0]
    positions = shapes["decoder/position_encodings/encodings"][0]
    return {
        **found,
        "vocab": vocab,
        "decoder_layers": 0 if layers == found["layers"] else layers,
        "decoder_mlp_width": 0 if hidden == found["mlp_width"] else hidden,
        "target_positions": positions,
        "target_length": min(128, positions),
        "start": start,
        "prefix": prefix,
        "end": end,
        "pad": end,
        "suppress": tuple(token for token in config.get("suppress_ids") or () if token >= 0),
        "begin_suppress": tuple(config.get("suppress_ids_begin") or ()),
    }


LAYOUTS = (
    Layout(
        name="hf",
        family="whisper",
        model_types=(),
        on_request=("whisper",),
        keys=_keys,
        options=_options,
        config=_config,
        preprocessor=encoder._processor,
        entry="model.encoder.layers.0.self_attn.q_proj.weight",
        facts=Config,
        processor=encoder.Processor,
        optional=(r"classifier\..*",),
        # The encoder alone leaves the decoder out; a classifier's projection is of `whisper_encoder`.
        ignored=(r"(model\.)?decoder\..*", r"proj_out\..*", r"projector\..*"),
        prefixes=("model.",),
        tied=lambda port: {OUT: SHARED} if port.module.head == SEQ2SEQ else {},
        constants=lambda port: {POSITIONS: sinusoids(port.options.positions, port.options.width)},
    ),
    Layout(
        name="ctranslate2",
        family="whisper",
        model_types=(),
        keys=_ct2_keys,
        options=_ct2_options,
        config=encoder._ct2_config,
        preprocessor=encoder._processor,
        optional=(r"classifier\..*",),
        ignored=(
            "(encoder|decoder)/num_heads",
            "decoder/(activation|alibi|alignment_heads|alignment_layer|pre_norm|scale_embeddings)",
            "decoder/start_from_zero_embedding",
            r"decoder/(layer_.*|embeddings/.*|position_encodings/.*)",
        ),
        guessed=("seconds",),
        constants=lambda port: {
            "encoder/position_encodings/encodings": sinusoids(port.options.positions, port.options.width)
        },
    ),
)
