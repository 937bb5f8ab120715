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
    """The tree with arrays in place of every `Stored`; whoever can should place them one at a time instead."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, Stored) else leaf, tree)
