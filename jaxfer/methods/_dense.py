"""What methods with layers of their own share: a stack of dense layers among the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp


def drawn(key: jax.Array, sizes: Sequence[int]) -> dict[str, dict[str, jax.Array]]:
    """Dense layers between these widths: He's normal kernels, biases of zero."""
    stack = {}
    for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        kernel = jax.random.normal(jax.random.fold_in(key, i), (fan_in, fan_out)) * jnp.sqrt(2 / fan_in)
        stack[f"layer_{i}"] = {"kernel": kernel, "bias": jnp.zeros(fan_out)}
    return stack


def through(stack: Mapping[str, Mapping[str, jax.Array]], x: jax.Array) -> jax.Array:
    """[batch, width] -> [batch, outputs]; a ReLU follows each layer but the last."""
    for i in range(len(stack)):
        layer = stack[f"layer_{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = jax.nn.relu(x) if i + 1 < len(stack) else x
    return x
