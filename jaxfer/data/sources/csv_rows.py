"""Rows of tables: .csv, .tsv or .jsonl files with columns of numbers and of categories, and a label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.data import index
from jaxfer.data.encodings.row import Rows, Value
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.sources import labels as reading
from jaxfer.data.sources.about import About
from jaxfer.data.sources.rows import Bad, Dialect, allowed, judged, records
from jaxfer.data.sources.splitfiles import split_files, with_test
from jaxfer.data.split import ABOUT, Dataset, Split
from jaxfer.errors import InputError, nearest

TARGETS = ("class", "value")
FIX = "correct them, or name what means missing in data.missing"


def source(
    *,
    path: str = "",
    train: str = "",
    val: str = "",
    test: str = "",
    numbers: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    label: str = "label",
    target: str = "class",
    missing: tuple[str, ...] = (),
    zero_is_missing: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
    delimiter: str = "",
    encoding: str = "utf-8",
    quotes: bool = True,
    test_fraction: float = 0.0,
    one_hot: tuple[str, ...] | None = None,
    group: tuple[str, ...] | None = None,
    time: str | None = None,
    bad_rows: int | str | None = None,
) -> Dataset:
    """A folder with train.*, val.* and test.*, or one file that is all `train`, as for the source `table`.

    An empty field is missing; blank lines are skipped. Columns that are not named are not read.

    Args:
      path: the folder or file; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      train: name of the training file in that folder; empty: chosen by name.
      val: likewise; `none` leaves it out, so that val is drawn from train.
      test: likewise; `none` leaves it out.
      numbers: columns of numbers, each in its own unit.
      categories: columns of categories: words, or numbers that are names.
      label: column of the labels.
      target: `class` for a class by name or number, `value` for regression.
      missing: fields that mean missing besides the empty one, such as `?` or `NA`.
      zero_is_missing: columns of numbers in which 0 means missing.
      columns: names of the columns of a .csv or .tsv without a header.
      delimiter: between the fields; empty: a comma in .csv, a tab in .tsv.
      encoding: of the files, as Python names it.
      quotes: whether `"` quotes a field.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is no test file.
      one_hot: columns of 0 and 1 instead of `label`, which are the classes in this order; one of them is 1 in a row.
      group: column of the group of a row, such as its patient, or several, which together name it: metrics are
        told apart by it (`worst_group_accuracy`), and `data.val_by=group` keeps groups whole. No model reads it.
      time: column of the time of a row: a number, or a date as ISO 8601 has it; `data.val_by=time` holds out the last
        ones.
      bad_rows: number of rows that may be left out, with a note, since their fields don't match the header, a word is
        among the numbers, or the label is invalid; `skip`: any number.

    Raises:
      InputError: no such file or column, no rows, more bad rows than allowed, or labels that train does not have.
    """
    if target not in TARGETS:
        raise InputError(f"unknown data.target {target!r}{nearest(str(target), TARGETS)}")
    if not 0 <= test_fraction < 1:
        raise InputError(f"expected data.test_fraction from 0 to below 1, found {test_fraction}; 0 is the default")
    labels = reading.Labels(column=label, target=target, one_hot=one_hot or ()).check()
    if not labels.used():
        raise InputError("expected a column of labels, found none; name it in data.label")
    _check_columns(numbers, categories, labels, zero_is_missing)
    dialect = Dialect(columns=columns, delimiter=delimiter, encoding=encoding, quotes=quotes).check()
    limit, root = allowed(bad_rows), locate(path, "csv_rows")
    files, notes = split_files(root, {"train": train, "val": val, "test": test}, dialect)
    about = About(group or (), time or "")
    fields = (numbers, categories, labels, about, ("", *missing), zero_is_missing)
    return _read(files, notes, root, fields, dialect, limit, test_fraction)


@index.once
def _read(
    files: Mapping[str, Path],
    notes: tuple[str, ...],
    root: Path,
    named: tuple[Any, ...],
    dialect: Dialect,
    limit: float,
    test_fraction: float,
) -> Dataset:
    """The dataset in these files of the folder `root`; `named`: the arguments of `_Fields`."""
    fields, bad = _Fields(*named), []
    read = {split: fields.read(file, dialect, bad) for split, file in files.items()}
    notes += judged(bad, sum(map(len, read.values())) + len(bad), root, limit, fix=FIX)
    for split, file in files.items():
        if not read[split]:
            raise InputError(f"expected rows in {str(file)!r}, found none; add some or remove the file")
    classes = fields.labels.classes([label for _, label, _ in read["train"]])
    splits = {}
    for split, rows in read.items():
        values, labels, about = zip(*rows, strict=True)
        column = Rows(numbers=fields.numbers, categories=fields.categories, rows=values)
        label = reading.array(labels, classes, fields.labels.target, files[split])
        splits[split] = Split.whole(row=column, label=label, **fields.about.columns(about))
    parts = (part for name, split in splits.items() for part in (name, split.columns["row"].sha256, split.labels))
    beside = [split.columns[kind].sha256 for split in splits.values() for kind in ABOUT if kind in split.columns]
    content = fingerprint([*classes, *parts, *beside, f"test_fraction={test_fraction}"])
    provenance = {split: file.name for split, file in files.items()}
    if test_fraction:
        splits |= with_test(splits, test_fraction)
        provenance["test"] = f"drawn from {provenance['train']}: data.test_fraction={test_fraction:g}"
    notes += reading.lookalikes(classes)
    return Dataset(
        splits=splits, classes=classes, fingerprint=content, notes=notes, bad=tuple(bad), provenance=provenance
    )


def _check_columns(
    numbers: tuple[str, ...], categories: tuple[str, ...], labels: reading.Labels, zero_is_missing: tuple[str, ...]
) -> None:
    inputs = (*numbers, *categories)
    if not inputs:
        raise InputError("expected columns to read, found none; name them in data.numbers and data.categories")
    for name in inputs:
        if inputs.count(name) > 1:
            raise InputError(f"column {name!r} occurs twice in data.numbers and data.categories; name each once")
    for name, option in labels.used().items():
        if name in inputs:
            raise InputError(f"column {name!r} is data.{option} and an input as well; the model would read its answer")
    for name in zero_is_missing:
        if name not in numbers:
            raise InputError(f"data.zero_is_missing: {name!r} is not in data.numbers{nearest(name, numbers)}")


class _Fields:
    """How a record becomes (the values of a row, its label, its group and time)."""

    def __init__(
        self,
        numbers: tuple[str, ...],
        categories: tuple[str, ...],
        labels: reading.Labels,
        about: About,
        missing: tuple[str, ...],
        zeros: tuple[str, ...],
    ):
        self.numbers, self.categories, self.labels, self.about = numbers, categories, labels, about
        self.missing, self.zeros = missing, zeros
        self.word = reading.reader("class", "")

    def read(
        self, file: Path, dialect: Dialect, bad: list[str]
    ) -> list[tuple[tuple[Value, ...], Any, tuple[str, float]]]:
        """The usable rows of a file; of the others, line and reason are added to `bad`."""
        rows, known = [], set()
        for where, record in records(file, dialect, ""):
            try:
                if isinstance(record, Bad):
                    raise record
                known |= record.keys()
                rows.append(self._row(record))
            except Bad as error:
                bad.append(f"{file.name}:{where} {error}")
        used = dict.fromkeys(self.numbers, "numbers") | dict.fromkeys(self.categories, "categories")
        for name, option in {**used, **self.labels.used(), **self.about.used()}.items():
            if known and name not in known:
                raise InputError(f"data.{option}: {name!r} is not a column of {str(file)!r}{nearest(name, known)}")
        return rows

    def _row(self, record: Mapping[str, Any]) -> tuple[tuple[Value, ...], Any, tuple[str, float]]:
        values = [self._number(name, record.get(name)) for name in self.numbers]
        values += [None if self._absent(record.get(name)) else self.word(record[name]) for name in self.categories]
        return tuple(values), self.labels.read(record), self.about.read(record)

    def _absent(self, value: Any) -> bool:
        return value is None or (isinstance(value, str) and value.strip() in self.missing)

    def _number(self, name: str, value: Any) -> float | None:
        if self._absent(value):
            return None
        try:
            number = np.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = np.nan
        if not abs(number) <= reading.LARGEST:
            raise Bad(f"has no number in {name!r}: {str(value)[:40]!r}")
        return None if number == 0 and name in self.zeros else number
