"""Rows of a table of images: which file each names, or that the table holds it, with its label and what is about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxfer.data import index
from jaxfer.data.encodings.text import texts
from jaxfer.data.lookup import fingerprint
from jaxfer.data.sources import arrow
from jaxfer.data.sources.about import About
from jaxfer.data.sources.labels import Labels, array, lookalikes, readable, reader
from jaxfer.data.sources.rows import Bad, Dialect, judged, records
from jaxfer.data.sources.splitfiles import NAMED, SPLITS, with_test
from jaxfer.data.split import Column, Dataset, Split
from jaxfer.errors import InputError, nearest

# Other names of the column of files, used where the table lacks the default one.
FILES = ("file_name", "filename", "file", "image", "image_path", "img", "id")


class Asked(NamedTuple):
    """What the config names: the folder of the images, and columns."""

    base: Path
    file: str
    suffix: str
    labels: Labels
    split: str
    about: About
    text: str = ""


class How(NamedTuple):
    """How many rows may be bad, whether images are turned upright, and the share of train that is test."""

    limit: float
    upright: bool
    test_fraction: float


class Row(NamedTuple):
    """A usable row: its name in errors, its image (a file relative to the folder, or a row of its table), and more;
    `text` is empty where none is read."""

    where: str
    image: str | int
    label: Any
    about: tuple[str, float]
    text: str = ""


class Content(NamedTuple):
    """What the tables say.

    Attributes:
      tables: {split: its table}.
      rows: {split: its usable rows}.
      bad: the others, each with its reason.
      notes: for the user.
      bytes_in: the column that holds the images themselves; empty where `rows` name files.
      sha256: of the rows.
    """

    tables: Mapping[str, Path]
    rows: Mapping[str, tuple[Row, ...]]
    bad: tuple[str, ...]
    notes: tuple[str, ...]
    bytes_in: str
    sha256: str


@index.once
def read(tables: Mapping[str, Path], asked: Asked, dialect: Dialect) -> Content:
    """The rows of the tables, without a look at the images."""
    rows: dict[str, list[Row]] = {} if asked.split else {split: [] for split in tables}
    bad, notes, seen = [], [], set()
    bytes_in = arrow.image_column(tables["train"], asked.file) if arrow.reads(tables["train"]) else ""
    column = ""
    for split, table in tables.items():
        known, used = set(), set()
        for where, record in records(table, dialect, ""):
            if not known and isinstance(record, Mapping):
                known = set(record)
                seen |= known
                if split == "test" and not asked.labels.used().keys() <= known:
                    notes.append(f"{table.name} has no labels and is left out: no test split; data.test names another")
                    rows.pop("test", None)
                    break
                column = column or ("" if bytes_in else _file_column(asked.file, known, notes))
                used = _checked(asked, column, known, table)
            try:
                if isinstance(record, Bad):
                    raise record
                if missing := sorted(used - record.keys()):
                    raise Bad(f"has no {missing[0]!r}")
                name = where - 1 if bytes_in else _file(record[column], asked)
                label = asked.labels.read(record) if asked.labels.used() else None
                text = _text(record[asked.text], asked.text) if asked.text else ""
                row = Row(f"{table.name}:{where}", name, label, asked.about.read(record), text)
                rows.setdefault(_split_of(record, asked.split) or split, []).append(row)
            except Bad as error:
                bad.append(f"{table.name}:{where} {error}")
    if not asked.split and "split" in seen:
        notes.append("the table has a column 'split', which is not read; set data.split='split' to go by it")
    width = len(Row._fields) if asked.text else Row._fields.index("text")
    parts = ((split, *(row[1:width] for row in found)) for split, found in rows.items())
    content = fingerprint(str(part) for split in parts for part in split)
    kept = {split: tuple(rows[split]) for split in SPLITS if split in rows}
    named = {split: tables.get(split, tables["train"]) for split in kept}
    return Content(named, kept, tuple(bad), tuple(notes), bytes_in, content)


def _file_column(asked: str, known: set[str], notes: list[str]) -> str:
    """The column of the files: the one asked for, or a usual name instead of the default one, with a note."""
    if asked != "path" or asked in known:
        return asked
    found = next((name for name in FILES if name in known), asked)
    if found != asked:
        notes.append(f"no column 'path': using {found!r}; set data.file to use another")
    return found


def _checked(asked: Asked, column: str, known: set[str], table: Path) -> set[str]:
    """The columns that are read; `InputError` for one that the table does not have."""
    used = {**({column: "file"} if column else {}), **asked.labels.used(), **asked.about.used()}
    used |= {asked.split: "split"} if asked.split else {}
    used |= {asked.text: "text"} if asked.text else {}
    for name, option in used.items():
        if name not in known:
            raise InputError(f"data.{option}: {name!r} is not a column of {str(table)!r}{nearest(name, known)}")
    return set(used)


def _file(value: Any, asked: Asked) -> str:
    """The file that a row names, relative to the folder of the images."""
    name = reader("class", "")(value) + asked.suffix
    return os.path.relpath(name, asked.base) if os.path.isabs(name) else name


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Bad(f"has no text in {column!r}: {str(value)[:40]!r}")
    return readable(value)


def _split_of(record: Mapping[str, Any], column: str) -> str:
    """The split that a row says it is of; empty where no column does."""
    if not column:
        return ""
    split = NAMED.get(str(record[column]).strip().lower())
    if split is None:
        raise Bad(f"is of no split: {str(record[column])[:40]!r} in {column!r}")
    return split


def dataset(
    content: Content,
    asked: Asked,
    how: How,
    left: Mapping[Hashable, str],
    column: Callable[[str, Sequence[Row]], Column],
    ends: str,
) -> Dataset:
    """The dataset of the rows, without those whose image, or (split, image), is `left` out for the reason there."""
    rows, bad = {}, list(content.bad)
    for split, found in content.rows.items():
        wrong = [left.get(row.image) or left.get((split, row.image)) for row in found]
        rows[split] = [row for row, reason in zip(found, wrong, strict=True) if not reason]
        bad += [f"{row.where} {reason}" for row, reason in zip(found, wrong, strict=True) if reason]
    total = len(content.bad) + sum(map(len, content.rows.values()))
    notes = (*content.notes, *judged(bad, total, asked.base, how.limit))
    for split in ("train", *rows):
        if not rows.get(split):
            where = str(content.tables.get(split, asked.base))
            raise InputError(f"expected rows of {split} in {where!r}, found none; add some or remove the file")
    labels = asked.labels
    classes = labels.classes([row.label for row in rows["train"]]) if labels.used() else ()
    if labels.used() and labels.target != "value" and not classes:
        raise InputError("expected labels in train, found none; correct data.label or data.separator")
    splits = {}
    for split, found in rows.items():
        columns = {"image": column(split, found)}
        if asked.text:
            columns["text"] = texts(tuple(row.text for row in found))
        if labels.used():
            columns["label"] = array([row.label for row in found], classes, labels.target, content.tables[split])
        splits[split] = Split.whole(**columns, **asked.about.columns([row.about for row in found]))
    provenance = {split: content.tables[split].name for split in splits}
    if asked.split:
        provenance = {split: f"{name}, by its column {asked.split!r}" for split, name in provenance.items()}
    made = fingerprint([*classes, content.sha256, ends, *map(str, left), f"test_fraction={how.test_fraction}"])
    if how.test_fraction:
        splits |= with_test(splits, how.test_fraction)
        provenance["test"] = f"drawn from {provenance['train']}: data.test_fraction={how.test_fraction:g}"
    return Dataset(
        splits=splits,
        classes=classes,
        fingerprint=made,
        notes=(*notes, *lookalikes(classes)),
        bad=tuple(bad),
        provenance=provenance,
    )
