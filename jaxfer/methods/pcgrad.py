"""PCGrad: the gradients of several tasks are added without what each of them has against another.

Yu et al., 2020, "Gradient Surgery for Multi-Task Learning", arXiv:2001.06782, Algorithm 1: the gradient g_i of each
task meets those of the others in random order, and where g_i . g_j < 0 it becomes g_i - (g_i . g_j / g_j . g_j) g_j;
the step takes the sum. g_j is always the other task's gradient as it was. Products and projections are over the
parameters that the tasks share, and each head takes its own gradient. A step costs a forward and a backward pass for
each task.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxfer.method import Method
from jaxfer.methods._weighed import alone, tasks, weighed
from jaxfer.models.port import Port


def method(port: Port) -> Method:
    """Groups: `head`, `backbone`. Reads every stream with a task.

    A task's loss, and so its gradient, has the weight of its stream.
    """

    def init(params, key, given):
        tasks(port)
        return params, {}

    def gradient(next, ctx, trainable):
        found, rest = alone(next, ctx, trainable)
        every = [each.gradients for each in found.values()]
        shared = [{path: g for path, g in each.items() if not path.startswith(f"{port.head}/")} for each in every]
        factors = surgery(jnp.array([[optax.tree.vdot(a, b) for b in shared] for a in shared]), ctx.key)
        own = jnp.ones_like(factors)
        return {
            path: sum(f * each[path] for f, each in zip(factors if path in shared[0] else own, every, strict=True))
            for path in trainable
        }, rest

    return weighed(port, init=init, gradient=gradient)


def surgery(products: jax.Array, key: jax.Array) -> jax.Array:
    """[n]: how often each gradient is in the sum, by the products [n, n] of all pairs."""
    n = len(products)

    def projected(own, key):
        order = jax.random.permutation(key, n)

        def off(place, factors):
            other = order[place]
            size = products[other, other]
            along = jnp.minimum(factors @ products[:, other], 0) / jnp.where(size > 0, size, 1)
            return factors.at[other].add(jnp.where(other == own, 0, -along))

        return jax.lax.fori_loop(0, n, off, jax.nn.one_hot(own, n, dtype=products.dtype))

    return sum(projected(own, jax.random.fold_in(key, own)) for own in range(n))
