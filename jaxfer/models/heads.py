"""Heads: what stands between a task and a model. A task names the kind it needs, a model the kinds it has.

| kind        | outputs                              | tasks                                   |
|-------------|--------------------------------------|-----------------------------------------|
| `pooled`    | [batch, outputs]                     | classification, multilabel, regression  |
| `token`     | [batch, length, outputs]             | tagging, spans (two outputs)            |
| `vocab`     | [batch, length, rows of the table]   | masked_lm; the decoder is the embedding |
| `dense`     | [batch, height, width, outputs]      | segmentation                            |
| `embedding` | [batch, width]; no new parameters    | similarity                              |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from jaxfer.errors import InputError

POOLED, TOKEN, VOCAB, DENSE, EMBEDDING = KINDS = ("pooled", "token", "vocab", "dense", "embedding")


def supported(factory: Callable[..., Any]) -> tuple[str, ...]:
    """The kinds of head that a family's factory takes: the constant `HEADS` of its module; most have the pooled one."""
    return getattr(inspect.getmodule(factory), "HEADS", (POOLED,))


def check(model: str, factory: Callable[..., Any], kind: str, task: str) -> None:
    """`InputError` if the model has no head of the kind that the task needs."""
    kinds = supported(factory)
    if kind not in kinds:
        raise InputError(
            f"task {task!r} needs a model with the head {kind!r}, model {model!r} has {' and '.join(kinds)}; choose "
            "another task or model"
        )
