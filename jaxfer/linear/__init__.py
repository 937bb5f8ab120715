"""Linear models fitted at once, by ridge or logistic regression, for a whole path of penalties.

Inputs are standardised by the training mean and deviation, and turned to their principal axes, from one
eigendecomposition: a penalty on squared weights is the same along any axes, and what is zero on all training inputs is
never needed. Both models minimise, over weights W and a bias b that no penalty holds,

    ridge: sum_i |y_i - x_i W - b|^2 + penalty |W|^2                  (scikit-learn's alpha)
    lbfgs: sum_i cross_entropy(x_i W + b, y_i) + penalty / 2 |W|^2    (scikit-learn's 1 / C)

All of it is in float64, inside a process whose JAX computes in float32 elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.errors import InputError, nearest

# 45 from 1e-6 to 1e5, evenly spaced logarithms: Kornblith et al., 2019, arXiv:1805.08974, appendix A.
PENALTIES = tuple(float(f"{value:.6g}") for value in np.logspace(5, -6, 45))
TOLERANCE = 1e-6  # norm of the gradient of the mean objective, at which L-BFGS stops
ITERATIONS = 1000  # of L-BFGS for one penalty, at most
EPSILON = 4 * float(np.finfo(np.float32).eps)  # relative rounding of inputs: what varies less is constant


class Solution(NamedTuple):
    """The model of one penalty, of inputs as `Axes` gives them.

    Attributes:
      penalty: its strength.
      weights: [r, outputs] float64.
      bias: [outputs] float64.
      iterations: of L-BFGS; 0 where it is solved exactly.
      gradient_norm: of the mean objective, with respect to weights and bias; 0 where it is solved exactly.
    """

    penalty: float
    weights: np.ndarray
    bias: np.ndarray
    iterations: int = 0
    gradient_norm: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Axes:
    """Standardised training inputs and their principal axes.

    Attributes:
      mean: [d] float64.
      scale: [d] float64, population standard deviations; 1 of inputs that are constant.
      axes: [d, r] float64, orthonormal columns; constant inputs have no part in them.
      spectrum: [r] float64, sum of squares along each: the eigenvalues of the Gram matrix that are not zero.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    spectrum: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> Axes:
        """From inputs [n, d], by the Gram matrix of the smaller side, d x d or n x n."""
        x = x.astype(np.float64)
        mean = x.mean(0)
        x -= mean
        deviation = np.sqrt(np.square(x).mean(0))
        varies = deviation > EPSILON * np.maximum(np.abs(mean), deviation.max())
        scale = np.where(varies, deviation, 1.0)
        x = np.where(varies, x / scale, 0.0)
        wide = x.shape[1] > x.shape[0]
        spectrum, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
        kept = spectrum > max(x.shape) * np.finfo(np.float64).eps * spectrum.max()
        spectrum, vectors = spectrum[kept], vectors[:, kept]
        axes = x.T @ vectors / np.sqrt(spectrum) if wide else vectors
        return cls(mean=mean, scale=scale, axes=axes, spectrum=spectrum)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inputs [m, d] along the axes: float64 [m, r]."""
        return (x.astype(np.float64) - self.mean) / self.scale @ self.axes

    def folded(self, solution: Solution) -> tuple[np.ndarray, np.ndarray]:
        """(kernel [d, outputs], bias [outputs]) float64, of inputs as they are: the same outputs."""
        kernel = self.axes @ solution.weights / self.scale[:, None]
        return kernel, solution.bias - self.mean @ kernel


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a method fits the output layer at once, in place of steps.

    Attributes:
      name: `ridge` or `lbfgs`.
      penalties: the path, the strongest first.
    """

    name: str
    penalties: tuple[float, ...] = PENALTIES

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks whose labels it reads."""
        return SOLVERS[self.name].tasks

    def __call__(self, x: np.ndarray, spectrum: np.ndarray, targets: np.ndarray) -> Iterator[Solution]:
        """The path: a solution for each penalty, each started from the one before where that helps.

        Args:
          x: inputs as `Axes` gives them, float64 [n, r].
          spectrum: of the axes.
          targets: float64 [n, outputs]; of classes, their probabilities.
        """
        return SOLVERS[self.name].solve(x, spectrum, targets, self.penalties)


class Solver(NamedTuple):
    """A way to fit, and the names of the tasks that it can fit."""

    solve: Callable[[np.ndarray, np.ndarray, np.ndarray, Sequence[float]], Iterator[Solution]]
    tasks: tuple[str, ...]


def fit(name: str | None, penalties: tuple[float, ...] | None, where: str) -> Fit | None:
    """The fit that two options name, checked; None for none.

    Args:
      name: of the solver.
      penalties: the path in any order; None: `PENALTIES`.
      where: what an error calls the owner of the options (`probe`).

    Raises:
      InputError: no such solver, penalties that are not positive or occur twice, or penalties without a solver.
    """
    if name is None:
        if penalties is not None:
            raise InputError(f"{where}: penalties are for a fit at once; set fit to {' or '.join(SOLVERS)}")
        return None
    if name not in SOLVERS:
        raise InputError(f"{where}: expected fit to be {' or '.join(SOLVERS)}, found {name!r}{nearest(name, SOLVERS)}")
    if penalties is None:
        return Fit(name=name)
    if not penalties or len(set(penalties)) < len(penalties) or not all(0 < value < np.inf for value in penalties):
        raise InputError(f"{where}: expected distinct positive penalties, found {penalties!r}; correct or omit them")
    return Fit(name=name, penalties=tuple(sorted(penalties, reverse=True)))


def ridge(x: np.ndarray, spectrum: np.ndarray, targets: np.ndarray, penalties: Sequence[float]) -> Iterator[Solution]:
    """Least squares: along the axes every weight has a solution of its own, so that a penalty costs next to nothing."""
    bias = targets.mean(0)
    moments = x.T @ (targets - bias)
    for penalty in penalties:
        yield Solution(penalty, moments / (spectrum + penalty)[:, None], bias)


def lbfgs(x: np.ndarray, spectrum: np.ndarray, targets: np.ndarray, penalties: Sequence[float]) -> Iterator[Solution]:
    """Multinomial logistic regression, each penalty from the solution of the one before."""
    with jax.enable_x64(True):
        arrays = jnp.asarray(x), jnp.asarray(spectrum), jnp.asarray(targets)
    weights, bias = np.zeros((x.shape[1], targets.shape[1])), np.zeros(targets.shape[1])
    for penalty in penalties:
        with jax.enable_x64(True):  # not around the `yield`: whoever reads the path computes in float32
            start, stop = (weights, bias), {"tolerance": TOLERANCE, "limit": ITERATIONS}
            found = _minimised(*arrays, np.float64(penalty), start, **stop)
            weights, bias, iterations, norm = jax.device_get(found)
        yield Solution(penalty, weights, bias, int(iterations), float(norm))


SOLVERS = {
    "ridge": Solver(ridge, ("classification", "regression")),
    "lbfgs": Solver(lbfgs, ("classification",)),
}


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
