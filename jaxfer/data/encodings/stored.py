"""Stored activations as the rest of a model reads them: an array for each example, computed once."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from jaxfer.data.encoding import Draw, Encoding, Fields, Reader
from jaxfer.data.order import Stream
from jaxfer.data.split import Dataset, Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredEncoding:
    """How stored activations become the field `features`, float32 [b, *shape]: as they are.

    Attributes:
      shape: of an example's, that of the longest bucket.
      like: the encodings of the examples that they were computed of: batches are of the same examples.
      side: fields of these that the rest of the model reads too.
      inputs: whether the task makes its targets of the encoded examples, so that these are read as well.
      tokens: whether the first axis of `shape` is that of tokens, as many as the batch's bucket has.
      views: augmented views of each example, of which a training batch has one at random.
      rows: the field holds rows of the column, int32 [b], in place of the activations, which lie on the device.
    """

    shape: tuple[int, ...]
    like: tuple[Encoding, ...] = ()
    side: tuple[str, ...] = ()
    inputs: bool = False
    tokens: bool = False
    views: int = 1
    rows: bool = False

    column: ClassVar[str] = "features"
    noun: ClassVar[str] = "features"
    augments: ClassVar[bool] = False
    features: ClassVar[str] = "features"

    @property
    def buckets(self) -> tuple[int, ...]:
        return next((encoding.buckets for encoding in self.like if encoding.buckets), ())

    def example(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
        encoded = {name: shape for encoding in self.like for name, shape in encoding.example(n).items()}
        stored = jax.ShapeDtypeStruct((n,), "int32") if self.rows else jax.ShapeDtypeStruct((n, *self.shape), "float32")
        return {"features": stored, **{name: encoded[name] for name in self.side}}

    def reader(self, split: Split) -> StoredReader:
        used = self.like if self.side or self.inputs or self.buckets else ()
        readers = tuple(encoding.reader(split) for encoding in used)
        return StoredReader(self, None if self.rows else split.columns["features"].values, split, readers)

    def notes(self, data: Dataset, sample: int) -> tuple[str, ...]:
        return ()

    def facts(self) -> dict[str, Any]:
        return {}

    def flat(self, split: Split) -> np.ndarray:
        """The activations, float32 [n, values]."""
        return self.reader(split)(np.arange(len(split)))["features"].reshape(len(split), -1)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StoredReader:
    """The activations of a split: rows of a column; or these rows, without `values`."""

    encoding: StoredEncoding
    values: np.ndarray | None
    split: Split
    readers: tuple[Reader, ...]

    @property
    def lengths(self) -> np.ndarray | None:
        return next((reader.lengths for reader in self.readers if reader.lengths is not None), None)

    def __call__(self, rows: np.ndarray, length: int | None = None, draw: Draw | None = None) -> Fields:
        fields: Fields = {}
        if self.encoding.side or self.encoding.inputs:
            for reader in self.readers:
                fields |= reader(rows, length, draw)
        chosen = self.split.rows[rows]
        if self.encoding.views > 1 and draw is not None:
            count = len(self.split.columns["features"]) // self.encoding.views
            seen = [draw.rng(i, Stream.VIEW).integers(self.encoding.views) for i in range(len(rows))]
            chosen = np.array(seen) * count + chosen
        if self.values is None:
            return {**fields, "features": chosen.astype(np.int32)}
        values = self.values[chosen, :length] if self.encoding.tokens else self.values[chosen]
        return {**fields, "features": np.asarray(values, np.float32)}
