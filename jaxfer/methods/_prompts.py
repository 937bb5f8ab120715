"""Learned tokens among those that a model's units pass on: what `vpt` and `prompt_tuning` share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Given
from jaxfer.methods._blocks import blocks
from jaxfer.models.execution import PLAIN
from jaxfer.models.layers import like
from jaxfer.models.passes import Interceptor
from jaxfer.models.port import Port
from jaxfer.rules import flatten


@functools.lru_cache(maxsize=64)
def hosts(port: Port, name: str) -> tuple[tuple[str, ...], int]:
    """(units of the first trunk's transformer blocks, channels of a token).

    Raises:
      InputError: there are none, or they can't read more tokens than the model's own. The line begins with `name`.
    """
    port = dataclasses.replace(port, execution=PLAIN)
    params, model_state = jax.eval_shape(lambda *given: port.init(*given), jax.random.key(0), port.example(2))
    found = {block.split("/")[0] for block in blocks(flatten(params))}
    units = [unit for unit in port.units if unit in found]
    if not units:
        raise InputError(f"{name}: the model has no transformer blocks to give tokens to; use lora")
    trunk = units[0].rpartition("block_")[0]
    units = [unit for unit in units if unit.rpartition("block_")[0] == trunk]
    read = port.passed(units[0])
    if getattr(read, "ndim", 0) != 3:
        raise InputError(f"{name}: the model's blocks pass on maps and no row of tokens; use adapter or lora")

    def longer(params, model_state, batch):
        x = jnp.zeros((read.shape[0], read.shape[1] + 1, read.shape[2]))
        side = {field: jnp.pad(v, ((0, 0), (0, 1))) for field, v in batch.items() if field == "attention_mask"}
        batch = {**batch, **side, port.inputs[0]: x}
        return port.apply(params, model_state, batch, begin=units[0], end=units[0])[0]

    try:
        jax.eval_shape(longer, params, model_state, port.example(2))
    except (TypeError, ValueError):  # biases or rotations of so many tokens
        raise InputError(
            f"{name}: attention of this model has a table of its own tokens' places, which says nothing of others; use "
            "adapter or lora"
        ) from None
    return tuple(units), read.shape[-1]


def check_places(port: Port, name: str, count: int) -> None:
    """`InputError`, a line that begins with `name`, unless there are so many positions more than a text has tokens."""
    longest, positions = port.encoding.max_length, port.options.positions
    if longest + count > positions:
        raise InputError(
            f"{name}: form='peft' moves tokens on by {count} of {positions} positions, found max_length={longest}; set "
            f"config.model.max_length={max(positions - count, 1)} or less, or fewer tokens"
        )


def former(given: Given, drawn: Any) -> Any:
    """What a source of the same method handed on; where none did (zeros), what was drawn."""
    if given.former is None:
        return drawn
    found = jax.tree.leaves(given.former)
    handed = jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in found]))
    return jax.tree.map(lambda own, new: jnp.where(handed, own, new), given.former, drawn)


def among(
    prompts: Mapping[str, jax.Array],
    places: Mapping[str, tuple[int, int]],
    ends: Collection[str],
    masked: Collection[str] = (),
) -> Interceptor:
    """Interceptor by which units read learned tokens among the others.

    Args:
      prompts: {unit: [tokens, width]} that come in with what it reads.
      places: {unit: (how many tokens are before them in what it reads, in what it gives)} of these and of `ends`.
      ends: units behind which they are taken out.
      masked: units whose mask of tokens [batch, tokens] is of those without them; they are in front there.
    """
    count = len(next(iter(prompts.values())))

    def intercept(next_fun, args, kwargs, context):
        unit = "/".join(context.module.path)
        if context.method_name != "__call__" or unit not in (*places, *masked):
            return next_fun(*args, **kwargs)
        x, (before, after) = args[0], places.get(unit, (0, 0))
        if unit in prompts:
            tokens = jnp.broadcast_to(like(prompts[unit], x), (len(x), *prompts[unit].shape))
            x = jnp.concatenate([x[:, :before], tokens, x[:, before:]], 1)
        if unit in masked and (mask := kwargs.get("attention_mask")) is not None:
            kwargs = {**kwargs, "attention_mask": jnp.pad(mask, ((0, 0), (count, 0)), constant_values=1)}
        y = next_fun(x, *args[1:], **kwargs)
        return jnp.concatenate([y[:, :after], y[:, after + count :]], 1) if unit in ends else y

    return intercept
