"""What methods with layers of their own share: a stack of dense layers among the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

EPSILON = 1e-5  # of the norms


def drawn(key: jax.Array, sizes: Sequence[int], *, normed: bool = False) -> dict[str, dict[str, jax.Array]]:
    """Dense layers between these widths: He's normal kernels, biases of zero.

    A layer that is `normed` over the batch has a scale; its bias follows the norm. That is each one but the last.
    """
    stack = {}
    for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        kernel = jax.random.normal(jax.random.fold_in(key, i), (fan_in, fan_out)) * jnp.sqrt(2 / fan_in)
        stack[f"layer_{i}"] = {"kernel": kernel, "bias": jnp.zeros(fan_out)}
        if normed and i + 2 < len(sizes):
            stack[f"layer_{i}"]["scale"] = jnp.ones(fan_out)
    return stack


def through(
    stack: Mapping[str, Mapping[str, jax.Array]],
    x: jax.Array,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
) -> jax.Array:
    """[batch, width] -> [batch, outputs]; the activation follows each layer but the last."""
    for i in range(len(stack)):
        layer = stack[f"layer_{i}"]
        x = x @ layer["kernel"]
        if "scale" in layer:
            x = (x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + EPSILON) * layer["scale"]
        x = x + layer["bias"]
        x = activation(x) if i + 1 < len(stack) else x
    return x
