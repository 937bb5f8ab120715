"""Texts in tables: .csv, .tsv or .jsonl files with columns for a text, and optionally its partner and a label."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfer.data import index
from jaxfer.data.encodings.text import texts
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.sources import labels as reading
from jaxfer.data.sources import templates
from jaxfer.data.sources.about import About
from jaxfer.data.sources.rows import DELIMITERS, Bad, Dialect, allowed, judged, records
from jaxfer.data.sources.splitfiles import split_files, with_test
from jaxfer.data.split import ABOUT, Dataset, Split
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
    separator: str = ";",
    columns: tuple[str, ...] = (),
    delimiter: str = "",
    encoding: str = "utf-8",
    quotes: bool = True,
    bad_rows: int | str = 0,
    test_fraction: float = 0.0,
    template: str | None = None,
    label_columns: tuple[str, ...] | None = None,
    one_hot: tuple[str, ...] | None = None,
    group: tuple[str, ...] | None = None,
    time: str | None = None,
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
      separator: between the names of a set.
      columns: names of the columns of a .csv or .tsv without a header.
      delimiter: between the fields; empty: a comma in .csv, a tab in .tsv. With it, files of any suffix are read.
      encoding: of the files, as Python names it: `latin-1`, `cp1252`, `utf-16`, ...
      quotes: whether `"` quotes a field of a .csv or .tsv (doubled inside, as spreadsheets and pandas write it); false
        where it is a character like any other.
      bad_rows: number of bad rows that may be left out, with a note; `skip`: any number.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is no test file.
      template: the text of a row, instead of one column: `{title}. {body}` has the fields of those columns in the place
        of their names. An empty field is an empty text, and a row of such fields alone is bad.
      label_columns: several columns of names instead of `label`, with target `labels`: the label `blue` in the column
        `colour` is the class `colour=blue`, and an empty field is none.
      one_hot: columns of 0 and 1 instead, which are the classes in this order: one 1 in a row with target `class`, any
        number with `labels`.
      group: column of the group of an example, such as its author, or several, which together name it: metrics are
        told apart by it (`worst_group_accuracy`), and `data.val_by=group` keeps groups whole. No model reads it.
      time: column of the time of an example: a number, or a date as ISO 8601 has it; `data.val_by=time` holds out the
        last ones.

    Raises:
      InputError: no such file or column, no rows, more bad rows than allowed, or labels that train does not have.
    """
    labels = reading.Labels(
        column=label, target=target, separator=separator, columns=label_columns or (), one_hot=one_hot or ()
    ).check()
    if not labels.used() and target != "class":
        raise InputError(f"data.target={target!r} is of the labels, and data.label names no column; set one of the two")
    if template is not None and (text != "text" or not templates.columns(template)):
        what = f"data.text={text!r} beside it" if text != "text" else repr(template)
        raise InputError(f"expected data.template with columns such as '{{title}}. {{body}}', found {what}; correct it")
    if not 0 <= test_fraction < 1:
        raise InputError(f"expected data.test_fraction from 0 to below 1, found {test_fraction}")
    limit = allowed(bad_rows)
    dialect = Dialect(columns=columns, delimiter=delimiter, encoding=encoding, quotes=quotes).check()
    root = locate(path, "table")
    files, notes = split_files(root, {"train": train, "val": val, "test": test}, dialect)
    asked = _Columns(text, text_pair, labels, template or "", About(group or (), time or ""))
    return _read(files, notes, root, asked, dialect, limit, test_fraction)


@index.once
def _read(
    files: Mapping[str, Path],
    notes: tuple[str, ...],
    root: Path,
    asked: _Columns,
    dialect: Dialect,
    limit: float,
    test_fraction: float,
) -> Dataset:
    """The dataset in these files of the folder `root`; `asked`: the columns that the config names."""
    files, names, labels, tables = dict(files), asked, asked.labels, {}
    for split, file in files.items():  # train first: all splits have its columns
        tables[split] = _table(file, names, dialect, split)
        names = tables[split].names
    notes += names.notes(asked)
    if "test" in tables and (why := _unlabelled(tables["test"], tables["train"])):
        notes += (f"{files['test'].name} has {why} and is left out: no test split; set data.test to another file",)
        del tables["test"], files["test"]
    notes += tuple(f"{files[split].name}: {table.spans}" for split, table in tables.items() if table.spans)
    total = sum(len(table.labels) + len(table.bad) for table in tables.values())
    bad = [bad for table in tables.values() for bad in table.bad]
    notes += judged(bad, total, root, limit)
    for split, file in files.items():
        if not tables[split].labels:
            raise InputError(f"expected rows in {str(file)!r}, found none; add some or remove the file")
    classed = bool(labels.used()) and labels.target != "value"
    classes = labels.classes(tables["train"].labels) if classed else ()
    if classed and not classes:
        raise InputError("expected labels in the train file, found none; correct data.label or data.separator")
    splits = {name: _split(table, classes, files[name]) for name, table in tables.items()}
    parts = [part for name, split in splits.items() for part in (name, split.columns["text"].sha256, split.labels)]
    parts += [s.columns[kind].sha256 for s in splits.values() for kind in ABOUT if kind in s.columns]
    parts = [part for part in parts if part is not None]
    content = fingerprint([*classes, *parts, f"test_fraction={test_fraction}"])
    provenance = {split: file.name for split, file in files.items()}
    if test_fraction:
        splits |= with_test(splits, test_fraction)
        provenance["test"] = f"drawn from {provenance['train']}: data.test_fraction={test_fraction:g}"
    notes += reading.lookalikes(classes)
    return Dataset(
        splits=splits,
        classes=classes,
        fingerprint=content,
        notes=notes,
        bad=tuple(bad),
        provenance=provenance,
    )


@dataclass(frozen=True)
class _Columns:
    """Names of the columns in use.

    Attributes:
      text: of the texts.
      pair: of their partners; empty for single texts.
      labels: of the labels; none for texts alone.
      template: of a text of several columns instead of `text`; empty for one.
      about: of groups and times.
    """

    text: str
    pair: str
    labels: reading.Labels
    template: str
    about: About

    def used(self) -> dict[str, str]:
        """{column that is read: the option that names it}."""
        texts = dict.fromkeys(templates.columns(self.template), "template") or {self.text: "text"}
        pair = {self.pair: "text_pair"} if self.pair else {}
        return {**texts, **pair, **self.labels.used(), **self.about.used()}

    def among(self, known: Iterable[str]) -> _Columns:
        """The columns to use in a file with these columns: the default names if present, else known equivalents."""
        known, changes = set(known), {}
        if (self.text, self.pair, self.template) == ("text", "", "") and "text" not in known:
            text, pair = next((names for names in TEXTS if set(filter(None, names)) <= known), ("text", ""))
            changes |= {"text": text, "pair": pair}
        if "label" in self.labels.used() and "label" not in known:
            found = next((name for name in LABELS[self.labels.target] if name in known), "label")
            changes["labels"] = dataclasses.replace(self.labels, column=found)
        return dataclasses.replace(self, **changes)

    def notes(self, asked: _Columns) -> tuple[str, ...]:
        """Notes on columns used in place of the requested ones."""
        lines = []
        if (self.text, self.pair) != (asked.text, asked.pair):
            columns = f"{self.text!r} and {self.pair!r} as pairs" if self.pair else repr(self.text)
            lines.append(f"no column 'text': using {columns}; set data.text and data.text_pair to use others")
        if self.labels != asked.labels:
            lines.append(f"no column 'label': using {self.labels.column!r}; set data.label to use another")
        return tuple(lines)


@dataclass(frozen=True)
class _Table:
    """The content of one file.

    Attributes:
      names: its columns.
      first: texts of the usable rows.
      second: second texts of the usable rows, "" where the file has none.
      labels: labels of the usable rows, None where no column is read; empty if the file has no label column.
      about: groups and times of the usable rows, as `About.read` has them.
      bad: line and reason of each unusable row.
      spans: a note on rows that span lines within quotes; empty if there are none.
      unlabelled: rows of a file without a column of labels.
    """

    names: _Columns
    first: tuple[str, ...]
    second: tuple[str, ...]
    labels: tuple[Any, ...]
    about: tuple[tuple[str, float], ...]
    bad: tuple[str, ...]
    spans: str
    unlabelled: int


def _table(file: Path, names: _Columns, dialect: Dialect, split: str) -> _Table:
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
            rows.append(_row(record, names))
        except Bad as error:
            bad.append(f"{file.name}:{where} {error}")
    targets = names.labels.used()
    for column, option in names.used().items():
        if known and column not in known and (column not in targets or split != "test"):
            raise InputError(
                f"data.{option}={column!r} is not a column of {str(file)!r}{_column_fix(column, known, file)}"
            )
    first, second, labels, about = zip(*rows, strict=True) if rows else ((), (), (), ())
    spans = f"{spanning} {'row spans' if spanning == 1 else 'rows span'} lines within quotes"
    spans += "; set data.quotes=false if quotes are ordinary characters"
    unlabelled = count if known and not targets.keys() <= known else 0
    return _Table(names, first, second, labels, about, tuple(bad), spans if spanning else "", unlabelled)


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
        return f"no column {next(iter(test.names.labels.used()))!r} (rows: {test.unlabelled:,})"
    values = set(test.labels)
    if len(values) == 1 and values <= {"-1", -1.0} and not values & set(train.labels):
        return f"the label -1 in all of its {len(test.labels):,} rows"
    return ""


def _row(record: Mapping[str, Any], names: _Columns) -> tuple[str, str, Any, tuple[str, float]]:
    """(text, partner or '', label or None, group and time)."""
    fields = [templates.filled(names.template, record)] if names.template else []
    for column in (*([] if fields else [names.text]), *([names.pair] if names.pair else [])):
        value = record.get(column)
        if not isinstance(value, str) or not value.strip():
            raise Bad(f"has no text in {column!r}")
        fields.append(reading.readable(value))
    label = names.labels.read(record) if names.labels.used() else None
    return fields[0], fields[1] if names.pair else "", label, names.about.read(record)


def _split(table: _Table, classes: tuple[str, ...], file: Path) -> Split:
    # Only the columns say whether a table has partners: an empty partner is a bad row.
    text, labels = texts(table.first, table.second if any(table.second) else None), table.names.labels
    targets = {"label": reading.array(table.labels, classes, labels.target, file)} if labels.used() else {}
    return Split.whole(text=text, **targets, **table.names.about.columns(table.about))
