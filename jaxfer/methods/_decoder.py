"""What methods with a transformer of their own behind the network share: pre-norm blocks, one after the other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxfer.models.transformer import Block, Spec, layer_norm

EPSILON = 1e-6  # of the norms


def block(width: int, *, causal: bool = False) -> Block:
    """Of heads of about 32 channels and an MLP four times as wide."""
    heads = next(count for count in range(max(1, width // 32), 0, -1) if width % count == 0)
    return Block(Spec(heads=heads, mlp_width=4 * width, epsilon=EPSILON, causal=causal))


def drawn(key: jax.Array, width: int, layers: int) -> dict[str, Any]:
    """Parameters of so many blocks, side by side, and of a norm behind them."""
    empty, one = jnp.zeros((1, 2, width)), block(width)
    blocks = jax.vmap(lambda key: one.init(key, empty, train=False)["params"])(jax.random.split(key, layers))
    return {"blocks": blocks, "norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)}}


def through(stack: dict[str, Any], x: jax.Array, *, causal: bool = False, added: jax.Array | None = None) -> jax.Array:
    """[batch, tokens, width] -> the same.

    Args:
      stack: the parameters.
      x: tokens.
      causal: whether a token sees none after it.
      added: [layers, batch, 1, width] to what each block reads; None: nothing.
    """
    one = block(x.shape[-1], causal=causal)

    def layer(x, own):
        leaves, more = own
        return one.apply({"params": leaves}, x if more is None else x + more, train=False), None

    x, _ = jax.lax.scan(layer, x, (stack["blocks"], added))
    return layer_norm(EPSILON, "norm").apply({"params": stack["norm"]}, x)
