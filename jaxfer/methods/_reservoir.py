"""A reservoir: a uniform sample of all examples that went by, each with outputs of the network that saw it.

Vitter, 1985, "Random Sampling with a Reservoir", algorithm R: the first `size` examples take a place each; for the n-th
of all, one of n places is drawn, and the example takes it if it lies below `size`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfer.models.port import Port

Reservoir = Mapping[str, Any]  # `examples`: {field: [size, ...]}, `outputs` [size, outputs], `seen` [] int32


def empty(port: Port, size: int) -> Reservoir:
    """One of labelled examples of a classifier; texts have the room of the longest bucket.

    Fields of no values (a table without categories) are left out: a checkpoint has no place for them.
    """
    fields = {**port.example(size), "label": jax.ShapeDtypeStruct((size,), "int32")}
    examples = {name: jnp.zeros(s.shape, s.dtype) for name, s in fields.items() if math.prod(s.shape)}
    return {"examples": examples, "outputs": jnp.zeros((size, port.outputs)), "seen": jnp.zeros((), jnp.int32)}


def drawn(kept: Reservoir, key: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
    """(different examples, as many as the batch has, their outputs); some more than once where it holds fewer.

    Those of the batch, and zeros, where it holds none: no network has seen an example of zeros.
    """
    size, count = len(kept["outputs"]), len(batch["label"])
    held = jnp.minimum(kept["seen"], size)
    order = jnp.argsort(jnp.where(jnp.arange(size) < held, jax.random.uniform(key, (size,)), 2.0))
    rows = order[jnp.arange(count) % jnp.maximum(held, 1)]
    examples = {name: jnp.where(held > 0, x[rows], _padded(batch[name], x)) for name, x in kept["examples"].items()}
    return {**{name: x for name, x in batch.items() if name not in examples}, **examples}, kept["outputs"][rows]


def filled(kept: Reservoir, key: jax.Array, batch: Mapping[str, jax.Array], outputs: jax.Array) -> Reservoir:
    """The reservoir after a batch and its outputs, one example after the other."""
    size, count = len(kept["outputs"]), len(outputs)
    number = kept["seen"] + jnp.arange(count)
    place = jnp.where(number < size, number, jax.random.randint(key, (count,), 0, number + 1))
    # Of several examples of the batch that take a place, the last one has it; -1: it stays as it is.
    last = jnp.full(size, -1).at[place].max(jnp.arange(count), mode="drop")

    def put(old, new):
        return jnp.where((last >= 0).reshape(-1, *(1,) * (old.ndim - 1)), _padded(new, old)[last], old)

    examples = {name: put(old, batch[name]) for name, old in kept["examples"].items()}
    return {"examples": examples, "outputs": put(kept["outputs"], outputs), "seen": kept["seen"] + count}


def _padded(x: jax.Array, like: jax.Array) -> jax.Array:
    """Rows [batch, ...] as long as those of `like`, and of its type: of a bucket that is not the longest."""
    room = [(0, 0), *((0, most - own) for most, own in zip(like.shape[1:], x.shape[1:], strict=True))]
    return jnp.pad(x, room).astype(like.dtype)
