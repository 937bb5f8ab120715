"""Rows of a table as a model takes them: numbers standardised, categories as indices, and a flag for a missing number.

What the training rows decide (means, deviations, the values of a category) belongs to the encoding, and so to the model
and its weights: `fitted` reads it from a split once, and the same row is the same input ever after.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.lookup import fingerprint
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError, nearest

Value = float | str | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """A column of rows in memory; an example is {name: number, word or None where it is missing}.

    Attributes:
      numbers: names of the columns of numbers.
      categories: names of the columns of words.
      rows: the values of each row, numbers first.
    """

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    kind: ClassVar[str] = "row"
    key_bytes: ClassVar[int] = 0  # keys are computed without reading files

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Value]:
        return dict(zip((*self.numbers, *self.categories), self.rows[row], strict=True))

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the names and values."""
        return fingerprint([repr(self.numbers), repr(self.categories), *map(repr, self.rows)])

    def key(self, row: int) -> Hashable:
        """A key that is equal for equal rows."""
        return self.rows[row]

    def table(self, names: tuple[str, ...], rows: np.ndarray) -> np.ndarray:
        """float64 [rows, names] of columns of numbers, NaN where one is missing."""
        places = [self.numbers.index(name) for name in names]
        values = [[np.nan if (x := self.rows[row][i]) is None else x for i in places] for row in rows]
        return np.asarray(values, np.float64).reshape(len(rows), len(names))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Vectors:
    """A column of rows that are numbers alone, kept in one array.

    Attributes:
      numbers: names of the columns.
      values: finite float32 [n, numbers].
    """

    numbers: tuple[str, ...]
    values: np.ndarray

    kind: ClassVar[str] = "row"
    key_bytes: ClassVar[int] = 0
    categories: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> dict[str, Value]:
        return dict(zip(self.numbers, self.values[row].tolist(), strict=True))

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the names and values."""
        return fingerprint([repr(self.numbers), self.values])

    def key(self, row: int) -> Hashable:
        """A key that is equal for equal rows."""
        return self.values[row].tobytes()

    def table(self, names: tuple[str, ...], rows: np.ndarray) -> np.ndarray:
        """float64 [rows, names]."""
        places = {name: i for i, name in enumerate(self.numbers)}
        return self.values[np.ix_(rows, [places[name] for name in names])].astype(np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowEncoding:
    """How a row becomes `numbers` and `missing`, float32 [b, numbers], and `categories`, int32 [b, categories].

    A number is `(x - mean) / std`, in units of the training rows' spread; a missing one is 0, and 1 in `missing`. A
    category is 1 + the place of its value in `values`; 0 where it is missing or not among them.

    Attributes:
      numbers: names of the columns of numbers; with no `categories` either, `fitted` takes the data's.
      means: of each; () where they are not known yet.
      stds: standard deviations (of n, not n - 1) of each, positive.
      categories: names of the columns of categories.
      values: the known values of each; () where they are not known yet.
    """

    numbers: tuple[str, ...] = ()
    means: tuple[float, ...] = ()
    stds: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()

    column: ClassVar[str] = "row"
    noun: ClassVar[str] = "rows of a table"
    buckets: ClassVar[tuple[int, ...]] = ()
    augments: ClassVar[bool] = False
    features: ClassVar[str] = "columns"

    def example(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
        numbers = jax.ShapeDtypeStruct((n, len(self.numbers)), "float32")
        categories = jax.ShapeDtypeStruct((n, len(self.categories)), "int32")
        return {"numbers": numbers, "missing": numbers, "categories": categories}

    def check(self, split: Split) -> None:
        """`InputError` if the rows lack a column, or have it as the other kind."""
        rows = split.columns["row"]
        for option, wanted, known in (
            ("numbers", self.numbers, rows.numbers),
            ("categories", self.categories, rows.categories),
        ):
            for name in wanted if {*wanted} - {*known} else ():
                if name not in known:
                    raise InputError(f"the model reads {name!r} of data.{option}{nearest(name, known)}; add it there")

    def fitted(self, train: Split) -> dict[str, Any]:
        """{option: value} of what is still empty, by the training rows: names, means and deviations, known values.

        A column without a number gets mean 0, one without spread deviation 1.
        """
        self.check(train)
        rows, found = train.columns["row"], {}
        if not self.numbers and not self.categories:
            found = {"numbers": rows.numbers, "categories": rows.categories}
        numbers, categories = (found.get(name, getattr(self, name)) for name in ("numbers", "categories"))
        if len(self.means) < len(numbers):
            table = rows.table(numbers, train.rows)
            statistics = [_statistics(column[~np.isnan(column)]) for column in table.T]
            found |= {"means": tuple(mean for mean, _ in statistics), "stds": tuple(std for _, std in statistics)}
        if len(self.values) < len(categories):
            seen = [{row[name] for row in _examples(train)} - {None} for name in categories]
            found["values"] = tuple(tuple(sorted(words)) for words in seen)
        return found

    def reader(self, split: Split) -> RowReader:
        self.check(split)
        table = split.columns["row"].table(self.numbers, split.rows)
        missing = np.isnan(table)
        numbers = np.where(missing, 0, (table - np.asarray(self.means)) / np.asarray(self.stds))
        places = [{word: i for i, word in enumerate(words, 1)} for words in self.values]
        categories = [
            [known.get(row[name], 0) for name, known in zip(self.categories, places, strict=True)]
            for row in (_examples(split) if self.categories else ())
        ]
        return RowReader(
            fields={
                "numbers": numbers.astype(np.float32),
                "missing": missing.astype(np.float32),
                "categories": np.asarray(categories, np.int32).reshape(len(split), len(self.categories)),
            }
        )

    def notes(self, data: Dataset, sample: int) -> tuple[str, ...]:
        """Lines on columns that the model does not read, and on values of categories that it does not know."""
        rows, lines = data.splits["train"].columns["row"], []
        left = [name for name in (*rows.numbers, *rows.categories) if name not in (*self.numbers, *self.categories)]
        if left:
            lines.append(f"the model does not read {', '.join(left)}")
        for name, known in zip(self.categories, self.values, strict=True):
            words = {row[name] for split in data.splits.values() for row in _examples(split)} - {None, *known}
            if words:
                lines.append(f"{name}: the model does not know {', '.join(sorted(words)[:6])}; they count as missing")
        return tuple(lines)

    def facts(self) -> dict[str, Any]:
        return {}

    def flat(self, split: Split) -> np.ndarray:
        """What a linear model reads: the numbers, their flags, and a 1 for each category's value, or for none."""
        fields = self.reader(split)(np.arange(len(split)))
        hot = [fields["categories"][:, [i]] == np.arange(len(words) + 1) for i, words in enumerate(self.values)]
        return np.concatenate([fields["numbers"], fields["missing"], *hot], 1).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RowReader:
    """The fields of a whole split, encoded once."""

    fields: Mapping[str, np.ndarray]
    lengths: ClassVar[None] = None

    def __call__(self, rows: np.ndarray, length: int | None = None, draw: Draw | None = None) -> Fields:
        return {name: values[rows] for name, values in self.fields.items()}


def _examples(split: Split) -> Iterable[Mapping[str, Value]]:
    return (split.example("row", row) for row in range(len(split)))


def _statistics(values: np.ndarray) -> tuple[float, float]:
    """(mean, standard deviation) of [n] numbers."""
    if not len(values):
        return 0.0, 1.0
    spread = float(values.std()) if values.max() > values.min() else 0.0
    return float(values.mean()), spread or 1.0
