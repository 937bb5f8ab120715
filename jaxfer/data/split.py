"""Splits: named columns with random access, and the rows in use. A subset is other rows of the same columns."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxfer.data.lookup import fingerprint

# Kinds of what a model reads; the other kinds are targets, which the sealed test split does not have.
INPUTS = ("image", "text", "audio", "series", "row", "features")
# Kinds of what is known of an example besides: the group it is of (a patient, a place), str [n], and when it was made,
# float64 [n]. No model reads them; splits may be drawn by them.
ABOUT = ("group", "time")
# Kinds of targets that hold one array: class indices int32 [n], sets of classes bool [n, classes], float32 values [n].
LABELS = ("class", "classes", "value")
GROUP = "group"  # name and kind of the column of subgroups, str [n]: metrics are told apart by it, no model reads it


class Column(Protocol):
    """One field of every example, decoded when it is asked for; picklable, because loader processes get a copy.

    Optional: `key(row)`, equal for equal examples, and `key_bytes`, what that reads, so that copies in two splits are
    found (`exact(row)` where `key` leaves something out, `loose(row)` for those that are almost equal); `picture(row)`,
    an opened image that is not yet decoded; `name(row)`, by which a person knows the example: its file, its text.

    Attributes:
      kind: one of `INPUTS`, `LABELS`, `ABOUT`, or another kind of target that a task reads: `mask`, `tags`, `spans`...
      sha256: sha256 (hex) of the content; token tables and feature caches are kept under it.
    """

    kind: str

    @property
    def sha256(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Any: ...


@dataclass(frozen=True, eq=False, repr=False)
class Array:
    """A column in memory.

    Attributes:
      values: [n, ...]; uint8 [n, h, w, c] where they are images.
      kind: as in `Column`.
    """

    values: np.ndarray
    kind: str

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> Any:
        return self.values[row]

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the values with their type and shape."""
        return fingerprint([self.kind, self.values])

    @property
    def key_bytes(self) -> int:
        """Bytes read to compute a key."""
        return self.values[:1].nbytes

    def key(self, row: int) -> Hashable:
        """A key that is equal for examples of the same content."""
        return self.values.shape[1:], hashlib.blake2b(self.values[row].tobytes(), digest_size=16).digest()


@dataclass(frozen=True, eq=False, repr=False)
class Picked:
    """Rows of another column, each as often as it is named.

    Attributes:
      column: the other.
      rows: int64 [n], rows of it.
    """

    column: Column
    rows: np.ndarray

    @property
    def kind(self) -> str:
        """The other's."""
        return self.column.kind

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the other's content and the rows."""
        return fingerprint([self.column.sha256, self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Any:
        return self.column[int(self.rows[row])]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Split:
    """Rows of columns.

    Attributes:
      columns: {name: column}; all have the same length. Inputs are named by their kind, the usual target `label`, names
        of subgroups `group`.
      rows: int64 [n], which rows of every column are in use, in this order.
    """

    columns: Mapping[str, Column]
    rows: np.ndarray

    @classmethod
    def whole(cls, **columns: Column) -> Split:
        """Every row of these columns."""
        (count, *others) = {len(column) for column in columns.values()}
        if others:
            sizes = {name: len(column) for name, column in columns.items()}
            raise ValueError(f"expected columns of one length, found {sizes}")
        return cls(columns=columns, rows=np.arange(count))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> Split:
        """The split of these rows, in this order."""
        return Split(columns=self.columns, rows=self.rows[rows])

    def example(self, name: str, row: int) -> Any:
        """One field of one example, decoded."""
        return self.columns[name][int(self.rows[row])]

    def with_column(self, name: str, column: Column) -> Split:
        """The same rows with this column added or in place of another."""
        return dataclasses.replace(self, columns={**self.columns, name: column})

    def sealed(self) -> Split:
        """The inputs alone."""
        inputs = {name: column for name, column in self.columns.items() if column.kind in INPUTS}
        return dataclasses.replace(self, columns=inputs)

    @property
    def unlabelled(self) -> bool:
        """Whether it has inputs alone."""
        return all(column.kind in (*INPUTS, *ABOUT) for column in self.columns.values())

    @property
    def input(self) -> tuple[str, Column]:
        """(name, column) of the first input."""
        return next((name, column) for name, column in self.columns.items() if column.kind in INPUTS)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The column `label` of a kind in `LABELS`, [n] or [n, classes]; None if there is none."""
        column = self.columns.get("label")
        return None if column is None or column.kind not in LABELS else column.values[self.rows]

    @functools.cached_property
    def class_counts(self) -> np.ndarray:
        """int64 [classes]: examples of each class up to the last that occurs; of sets, those that have the label."""
        return np.bincount(self.labels) if self.labels.ndim == 1 else self.labels.sum(0)

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        """The column `group`, str [n]; None if there is none."""
        column = self.columns.get(GROUP)
        return None if column is None else column.values[self.rows]

    def __getstate__(self) -> dict[str, Any]:
        return {"columns": self.columns, "rows": self.rows}


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The splits of a data source, as the source yields them or after `prepare`.

    Attributes:
      splits: `train` always; `val` and `test` where there are such.
      classes: names in label order; `()` for regression.
      fingerprint: sha256 (hex) of the source's content, kept by `prepare`: `Split.rows` says which rows are in use.
      notes: messages for the user about the files, such as rows left out, a line each.
      bad: the rows or files that `data.bad_rows` let the source leave out, each with where it is and why, a line each.
      provenance: {split: its origin in a few words}.
      sealed: the inputs of the test split where it isn't opened: they are counted, and compared with the others' for
        copies.
      listed: the folder whose subfolders are data, so that no run may write into it; None for other data.
      pool: the inputs of the whole training split, where only a few of it keep their labels and are `train`; None where
        all do, or where nothing reads it.
      streams: {name: data beside these}, as `config.stream` names them; of those without a task, labels are sealed.
    """

    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    sealed: Split | None = None
    listed: Path | None = None
    pool: Split | None = None
    streams: Mapping[str, Dataset] = field(default_factory=dict)

    @property
    def left_out(self) -> int:
        """Number of bad rows or unreadable files."""
        return len(self.bad)

    @property
    def multilabel(self) -> bool:
        """Whether an example has a set of labels, not one."""
        label = self.splits["train"].columns.get("label")
        return label is not None and label.kind == "classes"
