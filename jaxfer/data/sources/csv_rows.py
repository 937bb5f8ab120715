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
from jaxfer.data.sources.rows import Bad, Dialect, records
from jaxfer.data.sources.splitfiles import split_files, with_test
from jaxfer.data.split import GROUP, Array, Dataset, Split
from jaxfer.errors import InputError, nearest

TARGETS = ("class", "value")
SHOWN = 3  # bad rows in a message


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
    group: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
    zero_is_missing: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
    delimiter: str = "",
    encoding: str = "utf-8",
    quotes: bool = True,
    test_fraction: float = 0.0,
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
      group: columns whose fields name an example's group, `sex` or `label,background`: metrics are told apart by it
        (`worst_group_accuracy`), and no model reads it.
      missing: fields that mean missing besides the empty one, such as `?` or `NA`.
      zero_is_missing: columns of numbers in which 0 means missing.
      columns: names of the columns of a .csv or .tsv without a header.
      delimiter: between the fields; empty: a comma in .csv, a tab in .tsv.
      encoding: of the files, as Python names it.
      quotes: whether `"` quotes a field.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is no test file.

    Raises:
      InputError: no such file or column, no rows, a word among numbers, or labels that train does not have.
    """
    if target not in TARGETS:
        raise InputError(f"unknown data.target {target!r}{nearest(str(target), TARGETS)}")
    if not 0 <= test_fraction < 1:
        raise InputError(f"expected data.test_fraction from 0 to below 1, found {test_fraction}; 0 is the default")
    _check_columns(numbers, categories, label, zero_is_missing)
    reading.check_group(group, target)
    dialect = Dialect(columns=columns, delimiter=delimiter, encoding=encoding, quotes=quotes).check()
    files, notes = split_files(locate(path, "csv_rows"), {"train": train, "val": val, "test": test}, dialect)
    fields = (numbers, categories, label, target, ("", *missing), zero_is_missing, group)
    return _read(files, notes, fields, dialect, test_fraction)


@index.once
def _read(
    files: Mapping[str, Path], notes: tuple[str, ...], named: tuple[Any, ...], dialect: Dialect, test_fraction: float
) -> Dataset:
    """The dataset in these files; `named`: the arguments of `_Fields`."""
    fields, target = _Fields(*named), named[3]
    read = {split: fields.read(file, dialect) for split, file in files.items()}
    classes = reading.class_names([name for _, name, _ in read["train"]]) if target == "class" else ()
    splits = {}
    for split, rows in read.items():
        column = Rows(numbers=fields.numbers, categories=fields.categories, rows=tuple(row for row, *_ in rows))
        labels = _labels([value for _, value, _ in rows], classes, target, files[split])
        splits[split] = Split.whole(row=column, label=labels)
        if fields.group:
            splits[split] = splits[split].with_column(GROUP, reading.groups([group for *_, group in rows]))
    parts = [part for name, split in splits.items() for part in (name, split.columns["row"].sha256, split.labels)]
    parts += [split.groups for split in splits.values() if split.groups is not None]
    content = fingerprint([*classes, *parts, f"test_fraction={test_fraction}"])
    provenance = {split: file.name for split, file in files.items()}
    if test_fraction:
        splits |= with_test(splits, test_fraction)
        provenance["test"] = f"drawn from {provenance['train']}: data.test_fraction={test_fraction:g}"
    notes += reading.lookalikes(classes)
    return Dataset(splits=splits, classes=classes, fingerprint=content, notes=notes, provenance=provenance)


def _check_columns(
    numbers: tuple[str, ...], categories: tuple[str, ...], label: str, zero_is_missing: tuple[str, ...]
) -> None:
    inputs = (*numbers, *categories)
    if not inputs:
        raise InputError("expected columns to read, found none; name them in data.numbers and data.categories")
    for name in inputs:
        if inputs.count(name) > 1:
            raise InputError(f"column {name!r} occurs twice in data.numbers and data.categories; name each once")
    if label in inputs:
        raise InputError(f"column {label!r} is data.label and an input as well; the model would read its answer")
    for name in zero_is_missing:
        if name not in numbers:
            raise InputError(f"data.zero_is_missing: {name!r} is not in data.numbers{nearest(name, numbers)}")


class _Fields:
    """How a record becomes (the values of a row, its label, its group)."""

    def __init__(
        self,
        numbers: tuple[str, ...],
        categories: tuple[str, ...],
        label: str,
        target: str,
        missing: tuple[str, ...],
        zeros: tuple[str, ...],
        group: tuple[str, ...],
    ):
        self.numbers, self.categories, self.label, self.group = numbers, categories, label, group
        self.missing, self.zeros = missing, zeros
        self.word, self.answer = reading.reader("class", ""), reading.reader(target, "")

    def read(self, file: Path, dialect: Dialect) -> list[tuple[tuple[Value, ...], Any, str]]:
        """Every row of a file; `InputError` for the bad ones together."""
        rows, bad, known = [], [], set()
        for where, record in records(file, dialect, ""):
            try:
                if isinstance(record, Bad):
                    raise record
                known |= record.keys()
                rows.append(self._row(record))
            except Bad as error:
                bad.append(f"{file.name}:{where} {error}")
        for option in ("numbers", "categories", "label", "group"):
            named = getattr(self, option)
            for name in (named,) if option == "label" else named:
                if known and name not in known:
                    raise InputError(f"data.{option}: {name!r} is not a column of {str(file)!r}{nearest(name, known)}")
        if bad:
            shown, count = "; ".join(bad[:SHOWN]) + ("; ..." if len(bad) > SHOWN else ""), len(rows) + len(bad)
            fix = "correct them, or name what means missing in data.missing"
            raise InputError(f"{len(bad)} of {count} rows in {str(file)!r} are bad ({shown}); {fix}")
        if not rows:
            raise InputError(f"expected rows in {str(file)!r}, found none; add some or remove the file")
        return rows

    def _row(self, record: Mapping[str, Any]) -> tuple[tuple[Value, ...], Any, str]:
        values = [self._number(name, record.get(name)) for name in self.numbers]
        values += [None if self._absent(record.get(name)) else self.word(record[name]) for name in self.categories]
        return tuple(values), self.answer(record.get(self.label)), reading.group_of(record, self.group)

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


def _labels(values: list[Any], classes: tuple[str, ...], target: str, file: Path) -> Array:
    if target == "value":
        return Array(np.asarray(values, np.float32), "value")
    index = {name: i for i, name in enumerate(classes)}
    unknown = sorted(set(values) - index.keys())
    if unknown:
        fix = "remove its rows or add some to train"
        raise InputError(f"expected the labels of train, found {unknown[0]!r} in {str(file)!r}; {fix}")
    return Array(np.asarray([index[name] for name in values], np.int32), "class")
