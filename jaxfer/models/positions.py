"""Position embeddings of a grid of patches, and bicubic interpolation to another grid."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

# PyTorch's values for the free parameter of Keys' kernel (1981, doi:10.1109/TASSP.1981.1163711, eq. 15).
CUBIC, CUBIC_ANTIALIASED = -0.75, -0.5


def interpolated(grid: jax.Array, size: tuple[int, int], *, antialias: bool = False) -> jax.Array:
    """Bicubic: [rows, columns, channels] -> [*size, channels] in the same type.

    As `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.
    """
    if grid.shape[:2] == tuple(size):
        return grid
    rows, columns = (
        jnp.asarray(cubic_weights(old, new, antialias=antialias), grid.dtype)
        for old, new in zip(grid.shape[:2], size, strict=True)
    )
    weighed = jnp.einsum("yh,hwc->ywc", rows, grid, precision="highest")
    return jnp.einsum("xw,ywc->yxc", columns, weighed, precision="highest")


def cubic_weights(old: int, new: int, *, antialias: bool = False) -> np.ndarray:
    """[new, old] float64: the weight of each old sample in each new one.

    Samples beyond the edge repeat it. With `antialias` the kernel is as wide as the samples that a new one stands for,
    and what lies beyond the edge is left out.
    """
    weights = np.zeros((new, old))
    stretch = max(old / new, 1.0) if antialias else 1.0
    for i in range(new):
        if antialias:
            centre = (i + 0.5) * old / new
            first, last = int(max(centre - 2 * stretch + 0.5, 0)), int(min(centre + 2 * stretch + 0.5, old))
            for tap in range(first, last):
                weights[i, tap] = _cubic(abs(tap + 0.5 - centre) / stretch, CUBIC_ANTIALIASED)
            weights[i] /= weights[i].sum()
            continue
        centre = (i + 0.5) * old / new - 0.5  # half-pixel centres: align_corners=False
        first = math.floor(centre)
        for tap in range(first - 1, first + 3):
            weights[i, min(max(tap, 0), old - 1)] += _cubic(abs(centre - tap), CUBIC)
    return weights


def linear_weights(old: int, new: int) -> np.ndarray:
    """[new, old] float64: the weight of each old sample in each new one, of which there are at least as many."""
    weights = np.zeros((new, old))
    for i in range(new):
        centre = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
        first = min(int(centre), max(old - 2, 0))
        weights[i, first] += 1 - (centre - first)
        weights[i, min(first + 1, old - 1)] += centre - first
    return weights


def _cubic(x: float, free: float) -> float:
    if x <= 1:
        return ((free + 2) * x - (free + 3)) * x * x + 1
    return ((free * x - 5 * free) * x + 8 * free) * x - 4 * free if x < 2 else 0.0
