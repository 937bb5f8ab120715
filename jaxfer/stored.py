"""Tensors in their file's precision, to be widened one at a time where they are placed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array of another precision than its file's: numpy converts it whenever it reads it, JAX does not take it.

    Attributes:
      value: as stored, any shape; often a view of the file.
      dtype: what it is read as.
    """

    value: np.ndarray
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def size(self) -> int:
        return self.value.size

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value, self.dtype if dtype is None else dtype)


def widened(tree: Any) -> Any:
    """The tree with arrays in place of every `Stored`, all of them at once; `placed` holds one at a time."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, Stored) else leaf, tree)


def placed(tree: Any) -> Any:
    """The tree on the default device, leaf by leaf; what is on devices already stays where it is."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jax.device_put(widened(leaf)), tree)
