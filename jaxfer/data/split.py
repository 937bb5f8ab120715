"""Splits with random access; a subset is a list of rows, and shares its source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Fetch = Callable[[int], Any]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Split:
    """Examples with random access, decoded when asked for.

    Attributes:
      labels: [n] int32 class indices, or float32 targets for regression; [n, classes] bool where an example has a set
        of labels.
      fetch: row -> image, uint8 [h, w, c], or text, a str or a pair; picklable, because loader processes get a copy.
        With `key` (row -> equal for equal examples) and `key_bytes` (what that reads) copies in two splits are found.
    """

    labels: np.ndarray
    fetch: Fetch

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Split:
        """The split of these rows, in this order."""
        fetch, origin = self.origin()
        return Split(labels=self.labels[rows], fetch=Subset(fetch, origin[rows]))

    def picture(self, row: int) -> Any:
        """An opened image where the source decodes files (`fetch.picture`); else the fetched example."""
        inside = isinstance(self.fetch, Subset)
        fetch, row = (self.fetch.fetch, int(self.fetch.rows[row])) if inside else (self.fetch, row)
        return fetch.picture(row) if hasattr(fetch, "picture") else fetch(row)

    def origin(self) -> tuple[Fetch, np.ndarray]:
        """The source's fetch and, for each row of this split, its source row (int64 [n]): a feature cache's key."""
        if isinstance(self.fetch, Subset):
            return self.fetch.fetch, self.fetch.rows
        return self.fetch, np.arange(len(self))


@dataclass(frozen=True, eq=False, repr=False)
class Subset:
    """Fetches chosen rows of a source."""

    fetch: Fetch
    rows: np.ndarray

    def __call__(self, row: int) -> Any:
        return self.fetch(int(self.rows[row]))


@dataclass(frozen=True, eq=False, repr=False)
class InMemory:
    """Fetches from uint8 images [n, h, w, c]."""

    images: np.ndarray

    def __call__(self, row: int) -> np.ndarray:
        return self.images[row]

    @property
    def key_bytes(self) -> int:
        """Bytes read to compute a key."""
        return self.images[:1].nbytes

    def key(self, row: int) -> Hashable:
        """A key that is equal for images of the same content."""
        return self.images.shape[1:], hashlib.blake2b(self.images[row].tobytes(), digest_size=16).digest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The splits of a data source, as the source yields them or after `prepare`.

    Attributes:
      splits: `train` always; `val` and `test` where there are such.
      classes: names in label order; `()` for regression.
      fingerprint: sha256 (hex) of the source's content, kept by `prepare`: `Split.origin` says which rows are in use.
      notes: messages for the user about the files, such as rows left out, a line each.
      provenance: {split: its origin in a few words}.
      sealed: the test split where it isn't opened, its labels blanked: its examples are counted, and compared with the
        others' for copies.
      listed: the folder whose subfolders are data, so that no run may write into it; None for other data.
    """

    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    sealed: Split | None = None
    listed: Path | None = None

    @property
    def multilabel(self) -> bool:
        """Whether an example has a set of labels, not one."""
        return self.splits["train"].labels.ndim == 2
