"""What methods that hide patches of an image share: which models have any, which are hidden, what is to be rebuilt."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Context, Params
from jaxfer.models.execution import PLAIN
from jaxfer.models.port import Port
from jaxfer.rules import flatten

MASK = 1  # folded into a step's key


@functools.lru_cache(maxsize=64)
def grid(name: str, port: Port, *, fewer: bool = False) -> tuple[int, int, int]:
    """(rows and columns of patches of an image, side of one in pixels).

    Args:
      name: of the method, for messages.
      port: the model.
      fewer: whether its blocks have to read fewer tokens than an image has.

    Raises:
      InputError: the model reads no patches, passes on maps of them, or needs all of them.
    """
    port = dataclasses.replace(port, execution=PLAIN)
    params, model_state = jax.eval_shape(lambda *given: port.init(*given), jax.random.key(0), port.example(2))
    kernel = flatten(params).get(f"{port.units[0]}/patch/kernel")
    if kernel is None or port.encoding.column != "image":
        raise InputError(f"{name}: hides patches of an image, and this model has none; use simclr or simcse")
    side = kernel.shape[0]
    rows, columns = (length // side for length in port.encoding.size[:2])
    read = port.passed(port.units[1])
    if getattr(read, "ndim", 0) != 3:
        raise InputError(f"{name}: the model's blocks pass on maps or positions and no row of tokens; use simclr")
    if fewer:
        tokens = jax.ShapeDtypeStruct((2, read.shape[1] - 1, read.shape[2]), jnp.float32)
        batch = {**port.example(2), port.inputs[0]: tokens}

        def blocks(params, model_state, batch):
            return port.apply(params, model_state, batch, begin=port.units[1], end=port.units[-2])[0]

        try:
            jax.eval_shape(blocks, params, model_state, batch)
        except (TypeError, ValueError):  # biases or rotations of so many tokens
            says = "attention of this model has a table of its own tokens' places"
            raise InputError(f"{name}: {says}, which says nothing of fewer; use simmim") from None
    return rows, columns, side


def order(key: jax.Array, examples: int, patches: int) -> jax.Array:
    """Patches of each example in a random order, int32 [examples, patches]."""
    return jnp.argsort(jax.random.uniform(jax.random.fold_in(key, MASK), (examples, patches)), axis=1)


def pixels(images: jax.Array, side: int) -> jax.Array:
    """[batch, height, width, channels] -> float32 [batch, patches, side * side * channels], patches by row."""
    batch, height, width, channels = images.shape
    x = images.astype(jnp.float32).reshape(batch, height // side, side, width // side, side, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, side * side * channels)


def read_apart(ctx: Context, port: Port, params: Params, tokens: jax.Array) -> jax.Array:
    """What the head makes of each token [batch, tokens, width] alone, by its norm: float32 [batch, tokens, features].

    It reads a row in which each token, special ones too, is this one. Where attention pools, its queries and keys stand
    still.
    """
    batch, count, width = tokens.shape
    alone = jnp.repeat(tokens.reshape(-1, 1, width), port.module.leading(port.units[-2]) + 1, axis=1)
    other = {port.inputs[0]: alone}
    found = ctx.forward(params, other=other, train=True, begin=port.units[-1]).outputs
    return found.reshape(batch, count, -1).astype(jnp.float32)
