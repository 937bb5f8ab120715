"""Texts in tables: .csv, .tsv or .jsonl files with columns for a text, and optionally its partner and a label."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.data import index
from jaxfer.data.encodings.text import texts
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.sources import labels as reading
from jaxfer.data.sources.rows import DELIMITERS, Bad, Dialect, judged, records
from jaxfer.data.sources.splitfiles import split_files, with_test
from jaxfer.data.split import GROUP, Array, Dataset, Split
from jaxfer.errors import InputError, nearest

# Other column names, from GLUE tasks and similar sets, used where the files lack the default ones.
TEXTS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
    ("sentence", ""),
)
LABELS = {"class": ("gold_label", "is_duplicate", "Quality"), "value": ("score",), "labels": ("labels",)}


def source(
    *,
    path: str = "",
    train: str = "",
    val: str = "",
    test: str = "",
    text: str = "text",
    text_pair: str = "",
    label: str = "label",
    target: str = "class",
    group: tuple[str, ...] = (),
    separator: str = ";",
    columns: tuple[str, ...] = (),
    delimiter: str = "",
    encoding: str = "utf-8",
    quotes: bool = True,
    bad_rows: int = 0,
    test_fraction: float = 0.0,
) -> Dataset:
    """A folder with train.*, val.* (or dev.*, valid.*, validation.*) and test.*, or one file that is all `train`.

    A process reads the files again only if one of them changed. A row is bad if its fields don't match the header, it
    has no text, or its label is invalid; blank lines are skipped. A test file without labels, as GLUE has them, is left
    out and noted.

    Args:
      path: the folder or file; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      train: name of the training file in that folder (`train_en.tsv`); empty: chosen by name, as above.
      val: likewise (`dev_matched.tsv`); `none` leaves it out, so that val is drawn from train.
      test: likewise; `none` leaves it out.
      text: column of the texts. If the files have no column `text`: `sentence`, or a pair such as `sentence1` and
        `sentence2`, with a note.
      text_pair: column of the second texts (a premise's hypothesis, a question's passage); empty: single texts.
      label: column of the labels. If the files have no column `label`: one of `LABELS`, with a note. Empty: none is
        read, for tasks that learn from texts alone.
      target: `class` for one class a text, by name or number; `value` for regression; `labels` for a set of names,
        which may be empty: `a;b` or `['a', 'b']` in a field, or a list in .jsonl.
      group: columns whose fields name an example's group, `sex` or `label,background`: metrics are told apart by it
        (`worst_group_accuracy`), and no model reads it.
      separator: between the names of a set.
      columns: names of the columns of a .csv or .tsv without a header.
      delimiter: between the fields; empty: a comma in .csv, a tab in .tsv. With it, files of any suffix are read.
      encoding: of the files, as Python names it: `latin-1`, `cp1252`, `utf-16`, ...
      quotes: whether `"` quotes a field of a .csv or .tsv (doubled inside, as spreadsheets and pandas write it); false
        where it is a character like any other.
      bad_rows: number of bad rows that may be left out, with a note.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is no test file.

    Raises:
      InputError: no such file or column, no rows, more bad rows than allowed, or labels that train does not have.
    """
    if target not in reading.TARGETS:
        raise InputError(f"unknown data.target {target!r}{nearest(str(target), reading.TARGETS)}")
    if not label and target != "class":
        raise InputError(f"data.target={target!r} is of the labels, and data.label names no column; set one of the two")
    reading.check_group(group, target if label else "nothing")
    if not separator:
        raise InputError("expected data.separator to be a character between labels, found none; ';' is the default")
    if not 0 <= test_fraction < 1 or bad_rows < 0:
        options = f"test_fraction={test_fraction}, bad_rows={bad_rows}"
        raise InputError(f"expected data.test_fraction from 0 to below 1 and data.bad_rows >= 0, found {options}")
    dialect = Dialect(columns=columns, delimiter=delimiter, encoding=encoding, quotes=quotes).check()
    root = locate(path, "table")
    files, notes = split_files(root, {"train": train, "val": val, "test": test}, dialect)
    return _read(
        files, notes, root, _Columns(text, text_pair, label, target, group), dialect, separator, bad_rows, test_fraction
    )


@index.once
def _read(
    files: Mapping[str, Path],
    notes: tuple[str, ...],
    root: Path,
    asked: _Columns,
    dialect: Dialect,
    separator: str,
    bad_rows: int,
    test_fraction: float,
) -> Dataset:
    """The dataset in these files of the folder `root`; `asked`: the columns that the config names."""
    files, names, target, tables = dict(files), asked, asked.target, {}
    for split, file in files.items():  # train first: all splits have its columns
        tables[split] = _table(file, names, dialect, reading.reader(target, separator), split)
        names = tables[split].names
    notes += names.notes(asked)
    if "test" in tables and (why := _unlabelled(tables["test"], tables["train"])):
        notes += (f"{files['test'].name} has {why} and is left out: no test split; set data.test to another file",)
        del tables["test"], files["test"]
    notes += tuple(f"{files[split].name}: {table.spans}" for split, table in tables.items() if table.spans)
    total = sum(len(table.labels) + len(table.bad) for table in tables.values())
    notes += judged([bad for table in tables.values() for bad in table.bad], total, root, bad_rows)
    for split, file in files.items():
        if not tables[split].labels:
            raise InputError(f"expected rows in {str(file)!r}, found none; add some or remove the file")
    classed = bool(asked.label) and target != "value"
    classes = reading.class_names(tables["train"].labels) if classed else ()
    if classed and not classes:
        raise InputError("expected labels in the train file, found none; correct data.label or data.separator")
    splits = {name: _split(table, classes, target, files[name]) for name, table in tables.items()}
    parts = [part for name, split in splits.items() for part in (name, split.columns["text"].sha256, split.labels)]
    parts = [part for part in (*parts, *(split.groups for split in splits.values())) if part is not None]
    content = fingerprint([*classes, *parts, f"test_fraction={test_fraction}"])
    provenance = {split: file.name for split, file in files.items()}
    if test_fraction:
        splits |= with_test(splits, test_fraction)
        provenance["test"] = f"drawn from {provenance['train']}: data.test_fraction={test_fraction:g}"
    notes += reading.lookalikes(classes)
    return Dataset(splits=splits, classes=classes, fingerprint=content, notes=notes, provenance=provenance)


@dataclass(frozen=True)
class _Columns:
    """Names of the columns in use, and the kind of label; `pair` is empty for single texts, `label` for texts alone."""

    text: str
    pair: str
    label: str
    target: str
    group: tuple[str, ...]

    def among(self, known: Iterable[str]) -> _Columns:
        """The columns to use in a file with these columns: the default names if present, else known equivalents."""
        known, changes = set(known), {}
        if (self.text, self.pair) == ("text", "") and "text" not in known:
            text, pair = next((names for names in TEXTS if set(filter(None, names)) <= known), ("text", ""))
            changes |= {"text": text, "pair": pair}
        if self.label == "label" and "label" not in known:
            changes["label"] = next((name for name in LABELS[self.target] if name in known), "label")
        return dataclasses.replace(self, **changes)

    def notes(self, asked: _Columns) -> tuple[str, ...]:
        """Notes on columns used in place of the requested ones."""
        lines = []
        if (self.text, self.pair) != (asked.text, asked.pair):
            columns = f"{self.text!r} and {self.pair!r} as pairs" if self.pair else repr(self.text)
            lines.append(f"no column 'text': using {columns}; set data.text and data.text_pair to use others")
        if self.label != asked.label:
            lines.append(f"no column 'label': using {self.label!r}; set data.label to use another")
        return tuple(lines)


@dataclass(frozen=True)
class _Table:
    """The content of one file.

    Attributes:
      names: its columns.
      first: texts of the usable rows.
      second: second texts of the usable rows, "" where the file has none.
      labels: labels of the usable rows, None where no column is read; empty if the file has no label column.
      groups: names of the usable rows' groups, "" where no column is read.
      bad: line and reason of each unusable row.
      spans: a note on rows that span lines within quotes; empty if there are none.
      unlabelled: rows of a file without a column of labels.
    """

    names: _Columns
    first: tuple[str, ...]
    second: tuple[str, ...]
    labels: tuple[Any, ...]
    groups: tuple[str, ...]
    bad: tuple[str, ...]
    spans: str
    unlabelled: int


def _table(file: Path, names: _Columns, dialect: Dialect, read_label: Callable[[Any], Any], split: str) -> _Table:
    """Reads one file; an unusable row is recorded as its line and the reason."""
    rows, bad, known, spanning, count = [], [], set(), 0, 0
    tabs = dialect.quotes and dialect.separates(file) == "\t"
    for where, record in records(file, dialect, names.text if split == "test" else ""):
        count += 1
        try:
            if isinstance(record, Bad):
                raise record
            if not known and split == "train":
                names = names.among(record)
            known |= record.keys()
            spanning += tabs and any("\n" in field for field in record.values())
            rows.append(_row(record, names, read_label))
        except Bad as error:
            bad.append(f"{file.name}:{where} {error}")
    named = (("text", names.text), ("text_pair", names.pair), ("label", names.label))
    grouped = names.group if names.label in known else ()  # a test file without labels is left out
    for option, column in (*named, *(("group", column) for column in grouped)):
        if column and known and column not in known and (option, split) != ("label", "test"):
            raise InputError(
                f"data.{option}={column!r} is not a column of {str(file)!r}{_column_fix(column, known, file)}"
            )
    first, second, labels, groups = zip(*rows, strict=True) if rows else ((), (), (), ())
    spans = f"{spanning} {'row spans' if spanning == 1 else 'rows span'} lines within quotes"
    spans += "; set data.quotes=false if quotes are ordinary characters"
    unlabelled = count if known and names.label and names.label not in known else 0
    return _Table(names, first, second, labels, groups, tuple(bad), spans if spanning else "", unlabelled)


def _column_fix(column: str, known: set[str], file: Path) -> str:
    """The end of the error about a missing column."""
    if file.suffix.lower() == ".jsonl":
        return nearest(column, known)
    if len(known) == 1 and (other := [c for c in (*DELIMITERS.values(), ";", "|") if c in next(iter(known))]):
        return f"{nearest(column, known)}; set data.delimiter={other[0]!r} if that separates the columns"
    return f"{nearest(column, known)}; if the file has no header, name its columns in data.columns"


def _unlabelled(test: _Table, train: _Table) -> str:
    """In what way a test file lacks labels; empty if it has some. GLUE's have no such column, or -1 in every row."""
    if test.unlabelled:
        return f"no column {test.names.label!r} (rows: {test.unlabelled:,})"
    values = set(test.labels)
    if len(values) == 1 and values <= {"-1", -1.0} and not values & set(train.labels):
        return f"the label -1 in all of its {len(test.labels):,} rows"
    return ""


def _row(record: Mapping[str, Any], names: _Columns, read_label: Callable[[Any], Any]) -> tuple[str, str, Any, str]:
    """(text, partner or '', label or None, group or '')."""
    fields = []
    for column in (names.text, *([names.pair] if names.pair else [])):
        value = record.get(column)
        if not isinstance(value, str) or not value.strip():
            raise Bad(f"has no text in {column!r}")
        fields.append(reading.readable(value))
    if names.label and names.label not in record:
        raise Bad(f"has no {names.label!r}")
    label = read_label(record[names.label]) if names.label else None
    return fields[0], fields[1] if names.pair else "", label, reading.group_of(record, names.group)


def _split(table: _Table, classes: tuple[str, ...], target: str, file: Path) -> Split:
    # Only the columns say whether a table has partners: an empty partner is a bad row.
    column = texts(table.first, table.second if any(table.second) else None)
    if not table.names.label:
        return Split.whole(text=column)
    if target == "value":
        return Split.whole(text=column, label=Array(np.asarray(table.labels, np.float32), "value"))
    index = {name: i for i, name in enumerate(classes)}
    sets = [(label,) if target == "class" else label for label in table.labels]
    unknown = sorted({name for names in sets for name in names} - index.keys())
    if unknown:
        fix = "remove its rows or add some to train"
        raise InputError(f"expected the labels of train, found {unknown[0]!r} in {str(file)!r}; {fix}")
    if target == "class":
        labels = np.asarray([index[name] for (name,) in sets], np.int32)
        groups = {GROUP: reading.groups(table.groups)} if table.names.group else {}
        return Split.whole(text=column, label=Array(labels, "class"), **groups)
    labels = np.zeros((len(sets), len(classes)), bool)
    for row, names in enumerate(sets):
        labels[row, [index[name] for name in names]] = True
    return Split.whole(text=column, label=Array(labels, "classes"))
