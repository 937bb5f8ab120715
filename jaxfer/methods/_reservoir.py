"""A reservoir: a uniform sample of all examples that went by, each with the outputs of the step in which it was seen.

Vitter, 1985, "Random Sampling with a Reservoir", algorithm R: the first `size` examples take a place each; of the n-th
after them, one of n places is drawn, and the example takes it if it lies below `size`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfer.models.port import Port

Reservoir = Mapping[str, Any]  # `examples`: {field: [size, ...]}, `outputs` [size, outputs], `seen` [] int32


def empty(port: Port, size: int) -> Reservoir:
    """One of labelled examples of a classifier; texts have the room of the longest bucket."""
    fields = {**port.example(size), "label": jax.ShapeDtypeStruct((size,), "int32")}
    examples = {name: jnp.zeros(s.shape, s.dtype) for name, s in fields.items()}
    return {"examples": examples, "outputs": jnp.zeros((size, port.outputs)), "seen": jnp.zeros((), jnp.int32)}


def drawn(kept: Reservoir, key: jax.Array, count: int) -> tuple[dict[str, jax.Array], jax.Array]:
    """(`count` different examples, their outputs); some more than once where it holds fewer, zeros where none."""
    size = len(kept["outputs"])
    held = jnp.minimum(kept["seen"], size)
    order = jnp.argsort(jnp.where(jnp.arange(size) < held, jax.random.uniform(key, (size,)), 2.0))
    rows = order[jnp.arange(count) % jnp.maximum(held, 1)]
    return {name: x[rows] for name, x in kept["examples"].items()}, kept["outputs"][rows]


def filled(kept: Reservoir, key: jax.Array, batch: Mapping[str, jax.Array], outputs: jax.Array) -> Reservoir:
    """The reservoir after a batch and its outputs, one example after the other."""
    size, count = len(kept["outputs"]), len(outputs)
    number = kept["seen"] + jnp.arange(count)
    place = jnp.where(number < size, number, jax.random.randint(key, (count,), 0, number + 1))
    # Of several examples of the batch that take a place, the last one has it; -1: it stays as it is.
    last = jnp.full(size, -1).at[place].max(jnp.arange(count), mode="drop")

    def put(old, new):
        new = jnp.pad(new, [(0, 0), *((0, a - b) for a, b in zip(old.shape[1:], new.shape[1:], strict=True))])
        return jnp.where((last >= 0).reshape(-1, *(1,) * (old.ndim - 1)), new[last].astype(old.dtype), old)

    examples = {name: put(old, batch[name]) for name, old in kept["examples"].items()}
    return {"examples": examples, "outputs": put(kept["outputs"], outputs), "seen": kept["seen"] + count}
