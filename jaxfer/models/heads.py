"""Heads: what stands between a task and a model. A task names the kind it needs, a model the kinds it has.

| kind        | outputs                              | tasks                                   |
|-------------|--------------------------------------|-----------------------------------------|
| `pooled`    | [batch, outputs]                     | classification, multilabel, regression  |
| `token`     | [batch, length, outputs]             | tagging, spans (two outputs)            |
| `vocab`     | [batch, length, rows of the table]   | masked_lm; the decoder is the embedding |
| `next`      | [batch, length, rows of the table]   | causal_lm; no token sees those after it |
| `seq2seq`   | [batch, target, rows of the table]   | seq2seq; a decoder beside the encoder   |
| `dense`     | [batch, height, width, outputs]      | segmentation                            |
| `embedding` | [batch, width]; no new parameters    | similarity                              |
| `forecast`  | [batch, horizon, channels]           | forecast                                |
| `pair`      | [batch, 2, width]; likewise          | contrastive: an image and a text        |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError

KINDS = ("pooled", "token", "vocab", "next", "seq2seq", "dense", "embedding", "forecast", "pair")
POOLED, TOKEN, VOCAB, NEXT, SEQ2SEQ, DENSE, EMBEDDING, FORECAST, PAIR = KINDS
WORDS = (VOCAB, NEXT, SEQ2SEQ)  # heads of the model's own vocabulary, which fit any data


def supported(factory: Callable[..., Any]) -> tuple[str, ...]:
    """The kinds of head that a family's factory takes: the constant `HEADS` of its module; most have the pooled one."""
    return getattr(inspect.getmodule(factory), "HEADS", (POOLED,))


def read(layer: Mapping[str, jax.Array], features: jax.Array) -> jax.Array:
    """The outputs [batch, outputs] of a pooled output layer, another than the model's own.

    Args:
      layer: {path below the layer: leaf}: `kernel` [width, outputs] and `bias`; or these of several layers in the order
        of their names, of which the mean is taken.
      features: what the model's own layer reads: [batch, width], or [batch, layers, width].
    """
    if "kernel" in layer:
        return features.astype(jnp.float32) @ layer["kernel"] + layer.get("bias", 0.0)
    names = sorted({path.split("/")[0] for path in layer})
    parts = [
        read({path.removeprefix(f"{name}/"): leaf for path, leaf in layer.items() if path.startswith(f"{name}/")}, x)
        for name, x in zip(names, features.swapaxes(0, 1), strict=True)
    ]
    return sum(parts) / len(parts)


def check(model: str, factory: Callable[..., Any], kind: str, task: str) -> None:
    """`InputError` if the model has no head of the kind that the task needs."""
    kinds = supported(factory)
    if kind not in kinds:
        raise InputError(
            f"task {task!r} needs a model with the head {kind!r}, model {model!r} has {' and '.join(kinds)}; choose "
            "another task or model"
        )
