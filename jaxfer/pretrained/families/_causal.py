"""What the layouts of causal decoders share: heads, padding tokens, what transformers' classes compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxfer.data.encodings.tokenizers import read_tokenizer
from jaxfer.errors import InputError
from jaxfer.models.causal import LAST
from jaxfer.models.heads import EMBEDDING, NEXT, TOKEN
from jaxfer.models.port import Port
from jaxfer.pretrained.layout import DENSE, Key

LONGEST = 128  # default limit in tokens: the cost of attention grows quadratically
OUT = "lm_head.weight"  # of an output layer over the vocabulary that is not tied


def head_keys(port: Port, *, token_out: str) -> dict[str, Key]:
    """The keys of the output layer: `score` of whole texts, `token_out` at every token, `lm_head` untied."""
    head, out = port.module.head, "params/head/out"
    if head == NEXT:
        return {} if port.options.tied else {f"{out}/kernel": Key(OUT, DENSE)}
    if head == TOKEN:
        return {f"{out}/kernel": Key(f"{token_out}.weight", DENSE), f"{out}/bias": Key(f"{token_out}.bias")}
    return {} if head == EMBEDDING else {f"{out}/kernel": Key("score.weight", DENSE)}


def needed(config: Mapping[str, Any], fields: Iterable[str], title: str) -> None:
    """`InputError` for a field that config.json must state."""
    lacking = [name for name in fields if name not in config]
    if lacking:
        raise InputError(f"config.json of a {title} needs {', '.join(fields)}; {lacking[0]} is missing")


def fixed(config: Mapping[str, Any], **values: Any) -> None:
    """`InputError` where config.json states another value than the one that is computed; none stands for it."""
    for name, value in values.items():
        if config.get(name) not in (None, value):
            raise InputError(f"config.json: expected {name} {value!r}, found {config[name]!r}, which is not supported")


def padding(config: Mapping[str, Any], usual: int | None = None) -> int:
    """The padding token: `pad_token_id`, else the token that ends texts, else 0."""
    end = config.get("eos_token_id")
    stated = (config.get("pad_token_id", usual), end[0] if isinstance(end, list) and end else end)
    return next((token for token in stated if isinstance(token, int) and token >= 0), 0)


def read(config: Mapping[str, Any], positions: int) -> dict[str, Any]:
    """Options about what is read of a text."""
    return {"pool": config.get("pooling_mode") or LAST, "max_length": min(LONGEST, positions)}


def heads_stated(port: Port, labels: Sequence[str], classes: str) -> dict[str, Any]:
    """The fields of config.json that say which class has the head; without labels (regression), LABEL_0, ...

    Raises:
      InputError: transformers has no class with this head.
    """
    options = port.options
    stated = {"pad_token_id": _pad(port), "tie_word_embeddings": options.tied, "dtype": "float32"}
    if port.module.head == NEXT:
        return {**stated, "architectures": [f"{classes}ForCausalLM" if classes != "GPT2" else "GPT2LMHeadModel"]}
    if port.module.head != TOKEN and (options.pool != LAST or options.normalize):
        raise InputError(
            f"transformers has no classifier with pool={options.pool!r}, normalize={options.normalize}; use "
            "--format=sentence-transformers instead"
        )
    called = list(labels) or [f"LABEL_{i}" for i in range(port.outputs)]
    kind = "Token" if port.module.head == TOKEN else "Sequence"
    return {
        **stated,
        "architectures": [f"{classes}For{kind}Classification"],
        "id2label": {str(i): name for i, name in enumerate(called)},
        "label2id": {name: i for i, name in enumerate(called)},
        **({} if labels else {"problem_type": "regression"}),
    }


def bare_stated(port: Port, classes: str) -> dict[str, Any]:
    """The same of the model without a head."""
    return {
        **{"pad_token_id": _pad(port), "tie_word_embeddings": port.options.tied, "dtype": "float32"},
        "architectures": [f"{classes}Model"],
    }


def _pad(port: Port) -> int:
    """The tokenizer's padding token, since a classifier of transformers finds the last token by it."""
    options = port.options
    if not options.tokenizer:
        return options.pad
    found = read_tokenizer(options.tokenizer)
    tokens = (found.pad_token_id, found.eos_token_id, options.pad)
    return next(token for token in tokens if token is not None)
