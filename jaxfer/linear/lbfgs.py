"""Logistic regression, for a path of penalties:

    sum_i cross_entropy(x_i W + b, y_i) + penalty / 2 |W|^2    (scikit-learn's 1 / C)

All of it is in float64, inside a process whose JAX computes in float32 elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.linear.problem import Problem, Solution

TOLERANCE = 1e-6  # norm of the gradient of the mean objective, at which L-BFGS stops
ITERATIONS = 1000  # of L-BFGS for one penalty, at most


def solve(problem: Problem, *, penalties: Sequence[float]) -> Iterator[Solution]:
    """Multinomial logistic regression, each penalty from the solution of the one before."""
    x, spectrum, targets = problem.x, problem.inputs.spectrum, problem.targets
    with jax.enable_x64(True):
        arrays = jnp.asarray(x), jnp.asarray(spectrum), jnp.asarray(targets)
    weights, bias = np.zeros((x.shape[1], targets.shape[1])), np.zeros(targets.shape[1])
    for penalty in penalties:
        with jax.enable_x64(True):  # not around the `yield`: whoever reads the path computes in float32
            start, stop = (weights, bias), {"tolerance": TOLERANCE, "limit": ITERATIONS}
            found = _minimised(*arrays, np.float64(penalty), start, **stop)
            weights, bias, iterations, norm = jax.device_get(found)
        how = {"iterations": int(iterations), "gradient_norm": float(norm)}
        yield Solution({"penalty": penalty}, weights, bias, **how)


@functools.partial(jax.jit, static_argnames=("tolerance", "limit"))
def _minimised(
    x: jax.Array,
    spectrum: jax.Array,
    targets: jax.Array,
    penalty: jax.Array,
    start: tuple[jax.Array, jax.Array],
    *,
    tolerance: float,
    limit: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(weights, bias, iterations, norm of the gradient of the mean objective), from `start` on.

    The variables are scaled by the roots of the curvature at equal probabilities. Along the principal axes that makes
    the Hessian there the identity, whatever the spectrum, and L-BFGS needs a fraction of the iterations.
    """
    n, classes = len(x), targets.shape[1]
    even = (1 - 1 / classes) / classes
    scales = jnp.sqrt((even * spectrum + penalty) / n)[:, None], jnp.sqrt(even)

    def objective(scaled: Any) -> jax.Array:
        weights, bias = jax.tree.map(jnp.divide, scaled, scales)
        loss = optax.softmax_cross_entropy(x @ weights + bias, targets).mean()
        return loss + penalty / (2 * n) * jnp.square(weights).sum()

    def norm(gradient: Any) -> jax.Array:
        return optax.tree.norm(jax.tree.map(jnp.multiply, gradient, scales))

    solver, evaluate = optax.lbfgs(), optax.value_and_grad_from_state(objective)

    def unfinished(carry: Any) -> jax.Array:
        _, state, done = carry
        return (done < limit) & ((done == 0) | (norm(optax.tree.get(state, "grad")) > tolerance))

    def step(carry: Any) -> Any:
        scaled, state, done = carry
        value, gradient = evaluate(scaled, state=state)
        updates, state = solver.update(gradient, state, scaled, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(scaled, updates), state, done + 1

    begin = jax.tree.map(jnp.multiply, start, scales)
    scaled, state, done = jax.lax.while_loop(unfinished, step, (begin, solver.init(begin), 0))
    weights, bias = jax.tree.map(jnp.divide, scaled, scales)
    return weights, bias, done, norm(optax.tree.get(state, "grad"))
