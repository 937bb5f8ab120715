"""Task: head size, per-example losses and metrics of a kind of output; one file each in `jaxfer/tasks/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

Batch = Mapping[str, jax.Array]
Hparams = Mapping[str, jax.Array]


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A loss and its metrics. Compared by identity, since compiled programs are shared between runs of one task.

    Attributes:
      outputs: number of classes of the data (0: real targets) -> width of the head.
      loss: (outputs [batch, width], batch, hparams) -> [batch] loss of each example, as trained on.
      scores: (outputs, batch) -> {metric: [batch]}: values of each example; a metric is their mean over the split.
      gathered: host function ([examples, width] outputs, [examples] labels) -> {metric: value} for what a mean over
        examples can't express; None where there is nothing of the kind.
      monitor: the validation metric that picks the best checkpoint.
      maximize: whether more of it is better.
      hparams: {name: default}: strengths that a config may set and a sweep may vary without compiling again.
      limits: {hparam: (least, below)} of what a config may set it to; one that is absent may be any finite number.
      label_dtype: `int32` for class indices, `float32` for real targets.
    """

    outputs: Callable[[int], int]
    loss: Callable[[jax.Array, Batch, Hparams], jax.Array]
    scores: Callable[[jax.Array, Batch], dict[str, jax.Array]]
    gathered: Callable[[np.ndarray, np.ndarray], dict[str, float]] | None = None
    monitor: str = "loss"
    maximize: bool = False
    hparams: Mapping[str, float] | None = None
    limits: Mapping[str, tuple[float, float]] | None = None
    label_dtype: Any = "int32"
