"""What the layouts of CLIP and SigLIP share: transformers' names of their towers, and the fields of their configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.models.transformer import ACTIVATIONS
from jaxfer.pretrained.layout import CONV, DENSE, IDENTITY, Key, Transform, heads_in, heads_out

TOKEN = Transform("token", lambda x: x.reshape(1, 1, -1), lambda x: x.reshape(-1))  # [width] <-> [1, 1, width]
POSITIONS = Transform("positions", lambda x: x[None], lambda x: x[0])  # [tokens, width] <-> [1, tokens, width]
# Keys without information: positions that old files list.
LISTED = r"(.*\.)?position_ids"


class TextConfig(TypedDict, total=False):
    """The fields of a text encoder's config.json that are read."""

    text_config: dict[str, Any] | None
    text_config_dict: dict[str, Any] | None
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    hidden_act: str
    layer_norm_eps: float
    attention_dropout: float
    projection_dim: int
    projection_size: int | None
    eos_token_id: int


class Table(dict[str, Key]):
    """A key table under construction: {leaf: key}."""

    def norm(self, leaf: str, key: str) -> None:
        self[f"params/{leaf}/scale"] = Key(f"{key}.weight")
        self[f"params/{leaf}/bias"] = Key(f"{key}.bias")

    def dense(
        self, leaf: str, key: str, kernel: Transform = DENSE, bias: Transform | None = IDENTITY, **part: Any
    ) -> None:
        """A linear layer, one without a bias for None."""
        self[f"params/{leaf}/kernel"] = Key(f"{key}.weight", kernel, **part)
        if bias is not None:
            self[f"params/{leaf}/bias"] = Key(f"{key}.bias", bias, **part)

    def blocks(self, unit: str, key: str, layers: int, heads: int) -> None:
        """The blocks {unit}block_i of the tower `key`."""
        split, joined = heads_out(heads), heads_in(heads)
        for i in range(layers):
            block, layer = f"{unit}block_{i}", f"{key}.encoder.layers.{i}"
            self.norm(f"{block}/norm_1", f"{layer}.layer_norm1")
            self.norm(f"{block}/norm_2", f"{layer}.layer_norm2")
            for name in ("query", "key", "value"):
                self.dense(f"{block}/attn/{name}", f"{layer}.self_attn.{name[0]}_proj", split, split)
            self.dense(f"{block}/attn/out", f"{layer}.self_attn.out_proj", joined)
            for name in ("fc1", "fc2"):
                self.dense(f"{block}/mlp/{name}", f"{layer}.mlp.{name}")

    def text(self, unit: str, layers: int, heads: int) -> None:
        """The text tower but for its projection."""
        for leaf, key in (("word", "token"), ("position", "position")):
            self[f"params/{unit}stem/{leaf}/embedding"] = Key(f"text_model.embeddings.{key}_embedding.weight")
        self.blocks(unit, "text_model", layers, heads)
        self.norm(f"{unit}head/norm", "text_model.final_layer_norm")

    def patches(self, unit: str, *, bias: bool) -> None:
        """The stem of an image tower but for a class token and a norm."""
        self[f"params/{unit}stem/patch/kernel"] = Key("vision_model.embeddings.patch_embedding.weight", CONV)
        if bias:
            self[f"params/{unit}stem/patch/bias"] = Key("vision_model.embeddings.patch_embedding.bias")
        self[f"params/{unit}stem/pos"] = Key("vision_model.embeddings.position_embedding.weight", POSITIONS)

    def clip_image(self, unit: str, layers: int, heads: int) -> None:
        """CLIP's image tower up to its blocks."""
        self.patches(unit, bias=False)
        self[f"params/{unit}stem/cls"] = Key("vision_model.embeddings.class_embedding", TOKEN)
        self.norm(f"{unit}stem/norm", "vision_model.pre_layrnorm")  # spelt so
        self.blocks(unit, "vision_model", layers, heads)

    def map_pool(self, leaf: str, heads: int) -> None:
        """SigLIP's attention pooling."""
        key, split = "vision_model.head", heads_out(heads)
        self[f"params/{leaf}/probe"] = Key(f"{key}.probe")
        for i, name in enumerate(("query", "key", "value")):
            for part in ("kernel", "bias"):
                stored = f"{key}.attention.in_proj_{'weight' if part == 'kernel' else 'bias'}"
                self[f"params/{leaf}/attn/{name}/{part}"] = Key(stored, split, part=(i, 3), axis=0)
        self.dense(f"{leaf}/attn/out", f"{key}.attention.out_proj", heads_in(heads))
        self.norm(f"{leaf}/norm", f"{key}.layernorm")
        for name in ("fc1", "fc2"):
            self.dense(f"{leaf}/mlp/{name}", f"{key}.mlp.{name}")


def section(config: Mapping[str, Any], tower: str) -> Mapping[str, Any]:
    """The fields of one tower, `vision` or `text`; transformers prefers the section that old files have besides."""
    if config.get("model_type", "").endswith(f"_{tower}_model"):
        return config
    return config.get(f"{tower}_config_dict") or config.get(f"{tower}_config") or {}


def activation(stated: Mapping[str, Any], default: str) -> str:
    """`hidden_act`; `InputError` for one that is unknown."""
    name = stated.get("hidden_act", default)
    if name not in ACTIVATIONS:
        raise InputError(f"config.json: expected hidden_act of {', '.join(ACTIVATIONS)}, found {name!r}")
    return name


def text_options(stated: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a text tower, but its projection; `defaults` are of transformers' config."""
    stated = {**defaults, **stated}
    positions = stated["max_position_embeddings"]
    return {
        "vocab": stated["vocab_size"],
        "width": stated["hidden_size"],
        "layers": stated["num_hidden_layers"],
        "heads": stated["num_attention_heads"],
        "mlp_width": stated["intermediate_size"],
        "positions": positions,
        "max_length": positions,
        "activation": activation(stated, ""),
        "epsilon": float(stated["layer_norm_eps"]),
        "attention_dropout": float(stated.get("attention_dropout", 0.0)),
    }


CLIP_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
SIGLIP_TEXT = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


def end(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The option `end` of CLIP's text tower."""
    return {"end": stated.get("eos_token_id", 49407)}


# {field of a tower's config.json: option, which may carry the tower's name}
FIELDS = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
    "hidden_act": "activation",
    "layer_norm_eps": "epsilon",
}


def tower_fields(options: Any, prefix: str = "") -> dict[str, Any]:
    """What the config.json of every tower states; `prefix` precedes the names of its options."""
    named = {field: getattr(options, prefix + name) for field, name in FIELDS.items()}
    return {**named, "attention_dropout": options.attention_dropout}


def text_config(options: Any, kind: str, prefix: str = "") -> dict[str, Any]:
    """A text tower's config.json but its projection; `kind` is `clip` or `siglip`."""
    return {
        "model_type": f"{kind}_text_model",
        "vocab_size": options.vocab,
        "max_position_embeddings": options.positions,
        **tower_fields(options, prefix),
        **({"eos_token_id": options.end} if kind == "clip" else {}),
    }


def no_classifier(port: Port, what: str, written: str) -> None:
    """`InputError` for a text tower with an output layer, which transformers has no class for."""
    if port.outputs:
        raise InputError(
            f"transformers has no classifier over {what}; with a task without an output layer (similarity) it is "
            f"exported as {written}"
        )
