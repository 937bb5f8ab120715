"""What is fitted, the inputs as a solver reads them, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

EPSILON = 4 * float(np.finfo(np.float32).eps)  # relative rounding of inputs: what varies less is constant


class Solution(NamedTuple):
    """A linear model, of inputs as its solver reads them.

    Attributes:
      tried: what sets it apart from the other solutions of its fit: {"penalty": 0.1}.
      weights: [r, outputs].
      bias: [outputs].
      columns: those of the inputs that it reads, r of them.
      iterations: of L-BFGS; 0 where there are none.
      gradient_norm: of the mean objective, with respect to weights and bias; 0 where it is not followed.
    """

    tried: Mapping[str, float]
    weights: np.ndarray
    bias: np.ndarray
    columns: slice = slice(None)
    iterations: int = 0
    gradient_norm: float = 0.0

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """[n, outputs] of inputs [n, ...] as the solver reads them."""
        return x[:, self.columns] @ self.weights + self.bias


class Inputs(Protocol):
    """How a solver reads features."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Features [m, d] as it reads them."""

    def folded(self, solution: Solution) -> tuple[np.ndarray, np.ndarray]:
        """(kernel [d, outputs], bias [outputs]) that give the same outputs of features as they are."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Plain:
    """Features as they are.

    Attributes:
      width: how many.
    """

    width: int

    @classmethod
    def of(cls, x: np.ndarray) -> Plain:
        """Of features [n, d]."""
        return cls(width=x.shape[1])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The same."""
        return x

    def folded(self, solution: Solution) -> tuple[np.ndarray, np.ndarray]:
        """(kernel [d, outputs], zero where it reads nothing; bias [outputs])."""
        kernel = np.zeros((self.width, len(solution.bias)), solution.weights.dtype)
        kernel[solution.columns] = solution.weights
        return kernel, solution.bias


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Training examples, and how a head is fitted to them.

    Attributes:
      x: inputs as the solver reads them, [n, r].
      inputs: how it reads them.
      labels: [n] classes or values, or [n, outputs] bool.
      outputs: of the layer.
      loss: (outputs [b, outputs], labels [b, ...], hparams) -> [], the task's mean loss as steps have it. The same
        function for the same task, so that what is compiled of it is.
      hparams: the task's, `label_smoothing` among them where it has one.
      parts: names of the equal parts of the features (`Port.feature_parts`).
      batches: (first step, number of steps) -> rows, int [number, batch_size], of a fit by steps.
      batch_size: examples of such a step.
      key: draws first weights.
    """

    x: np.ndarray
    inputs: Any
    labels: np.ndarray
    outputs: int
    loss: Callable[[jax.Array, jax.Array, Mapping[str, Any]], jax.Array] | None = None
    hparams: Mapping[str, float] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    batches: Callable[[int, int], np.ndarray] | None = None
    batch_size: int = 1
    key: jax.Array | None = None

    @property
    def targets(self) -> np.ndarray:
        """float64 [n, outputs]: the values themselves, or each class's probability, smoothed as the task says."""
        if np.issubdtype(self.labels.dtype, np.floating):
            return self.labels[:, None].astype(np.float64)
        smoothing = self.hparams.get("label_smoothing", 0.0)
        return (1 - smoothing) * np.eye(self.outputs)[self.labels] + smoothing / self.outputs
