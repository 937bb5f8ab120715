"""Numbers of parameters that a method adds to or trains in a full-size model, by shapes alone."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax

from jaxfer.method import NOTHING
from jaxfer.registry import METHODS, MODELS
from jaxfer.rules import flatten, resolve


@functools.cache
def _model(name: str) -> tuple[Any, Any]:
    port = MODELS.make(name, outputs=2)
    return port, jax.eval_shape(port.init, jax.random.key(0), port.example(1))[0]


def added(method: str, model: str, **options: Any) -> int:
    """Trainable parameters outside the output layer."""
    port, shapes = _model(model)
    made = METHODS.make(method, port, **options)
    leaves = flatten(jax.eval_shape(made.init, shapes, jax.random.key(0), NOTHING)[0])
    groups = resolve(made.rules, leaves)
    return sum(math.prod(leaves[path].shape) for path, group in groups.items() if group not in ("FROZEN", "head"))
