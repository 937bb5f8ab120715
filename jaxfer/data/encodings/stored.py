"""Stored features as a model's output layer reads them: a vector for each example, computed once."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from jaxfer.data.encoding import Draw, Encoding, Fields
from jaxfer.data.split import Dataset, Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredEncoding:
    """How stored vectors become the field `features`, float32 [b, width]: as they are.

    Attributes:
      width: of a vector.
      like: the encoding of the examples that they were computed of, where those are of several lengths: batches are of
        the same examples then.
      rows: the field holds rows of the column, int32 [b], in place of the vectors, which lie on the device.
    """

    width: int
    like: Encoding | None = None
    rows: bool = False

    column: ClassVar[str] = "features"
    noun: ClassVar[str] = "features"
    augments: ClassVar[bool] = False
    features: ClassVar[str] = "features"

    @property
    def buckets(self) -> tuple[int, ...]:
        return () if self.like is None else self.like.buckets

    def example(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
        if self.rows:
            return {"features": jax.ShapeDtypeStruct((n,), "int32")}
        return {"features": jax.ShapeDtypeStruct((n, self.width), "float32")}

    def reader(self, split: Split) -> StoredReader:
        lengths = None if self.like is None else self.like.reader(split).lengths
        return StoredReader(None if self.rows else split.columns["features"].values, split.rows, lengths)

    def notes(self, data: Dataset, sample: int) -> tuple[str, ...]:
        return ()

    def facts(self) -> dict[str, Any]:
        return {}

    def flat(self, split: Split) -> np.ndarray:
        """The vectors, float32 [n, width]."""
        return self.reader(split)(np.arange(len(split)))["features"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StoredReader:
    """The vectors of a split: rows of a column; or these rows, without `values`."""

    values: np.ndarray | None
    rows: np.ndarray
    lengths: np.ndarray | None

    def __call__(self, rows: np.ndarray, length: int | None = None, draw: Draw | None = None) -> Fields:
        chosen = self.rows[rows]
        if self.values is None:
            return {"features": chosen.astype(np.int32)}
        return {"features": np.asarray(self.values[chosen], np.float32)}
