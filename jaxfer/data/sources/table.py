"""Texts in tables: .csv, .tsv or .jsonl files with a column of texts, perhaps one of their partners, and labels."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.data.encodings.text import texts
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.order import Stream, draw
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError, nearest

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FORMATS = (*DELIMITERS, ".jsonl")
SPLITS = {"train": ("train",), "val": ("val", "dev", "valid", "validation"), "test": ("test",)}
TARGETS = ("class", "value", "labels")
SHOWN = 3  # bad rows in a message


def source(
    *,
    path: str = "",
    text: str = "text",
    text_pair: str = "",
    label: str = "label",
    target: str = "class",
    separator: str = ";",
    columns: tuple[str, ...] = (),
    quotes: bool = True,
    bad_rows: int = 0,
    test_fraction: float = 0.0,
) -> Dataset:
    """A folder with train.*, val.* (or dev.*, valid.*, validation.*) and test.*, or one file that is all `train`.

    Read whenever the source is made. A row is bad where it has other fields than the header, no text, or a label that
    is none; blank lines are none at all.

    Args:
      path: the folder or file, UTF-8; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      text: column of the texts.
      text_pair: column of their partners (a premise's hypothesis, a question's passage); empty: single texts.
      label: column of the labels.
      target: `class` for one class a text, by name or number; `value` for regression; `labels` for a set of names,
        which may be empty: `a;b` in a field, or a list in .jsonl.
      separator: between the names of a set.
      columns: names of the columns of a .csv or .tsv without a header.
      quotes: whether `"` quotes a field of a .csv or .tsv (doubled inside, as spreadsheets and pandas write it); false
        where it is a character like any other.
      bad_rows: how many bad rows may be left out, which the run then notes.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is no test file.

    Raises:
      InputError: no such file or column, no rows, more bad rows than allowed, or labels that train does not have.
    """
    if target not in TARGETS:
        raise InputError(f"unknown data.target {target!r}{nearest(str(target), TARGETS)}")
    if not separator:
        raise InputError("expected data.separator to be a character between labels, found none; ';' is the default")
    if not 0 <= test_fraction < 1 or bad_rows < 0:
        found = f"test_fraction={test_fraction}, bad_rows={bad_rows}"
        raise InputError(f"expected data.test_fraction from 0 to below 1 and data.bad_rows >= 0, found {found}")
    root = locate(path, "table")
    files = _files(root)
    names = _Columns(text, text_pair, label)
    tables = {split: _table(file, names, target, separator, columns, quotes) for split, file in files.items()}
    notes = _judge([bad for table in tables.values() for bad in table.bad], tables, root, bad_rows)
    for split, file in files.items():
        if not tables[split].labels:
            raise InputError(f"expected rows in {str(file)!r}, found none; add some or remove the file")
    classes = () if target == "value" else _classes(tables["train"].labels)
    splits = {name: _split(table, classes, target, files[name]) for name, table in tables.items()}
    parts = (part for name, split in splits.items() for part in (name, split.fetch.sha256, split.labels))
    content = fingerprint([*classes, *parts, f"test_fraction={test_fraction}"])
    if test_fraction:
        splits |= _with_test(splits, test_fraction)
    return Dataset(splits=splits, classes=classes, fingerprint=content, notes=notes)


@dataclass(frozen=True)
class _Columns:
    """Names of the columns that matter; an empty `pair` is none."""

    text: str
    pair: str
    label: str


@dataclass(frozen=True)
class _Table:
    """What one file holds: its usable rows, and for the others where and why not."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    labels: tuple[Any, ...]
    bad: tuple[str, ...]


class _Bad(Exception):
    """Why a row can't be used."""


def _files(root: Path) -> dict[str, Path]:
    """{split: file}."""
    if root.is_file():
        if root.suffix.lower() not in FORMATS:
            raise InputError(f"expected a {', '.join(FORMATS)} file, found {str(root)!r}; rename or convert it")
        return {"train": root}
    there = sorted(file for file in root.iterdir() if file.suffix.lower() in FORMATS)
    found = {}
    for split, stems in SPLITS.items():
        files = [file for file in there if file.stem.lower() in stems]
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise InputError(f"expected one {split} file in {str(root)!r}, found {names}; remove one")
        if files:
            found[split] = files[0]
    if "train" not in found:
        names = ", ".join(file.name for file in there[:5]) or "none"
        fix = "set data.path to one of the files" if there else "correct data.path"
        raise InputError(f"expected train.csv, .tsv or .jsonl in {str(root)!r}, found {names}; {fix}")
    return found


def _table(file: Path, names: _Columns, target: str, separator: str, columns: tuple[str, ...], quotes: bool) -> _Table:
    """Reads one file; a row that can't be used is kept as where and why."""
    read_label = {"class": _class, "value": _value, "labels": lambda value: _set(value, separator)}[target]
    rows, bad, known = [], [], set()
    for where, record in _records(file, columns, quotes):
        try:
            if isinstance(record, _Bad):
                raise record
            known |= record.keys()
            rows.append(_row(record, names, read_label))
        except _Bad as error:
            bad.append(f"{file.name}:{where} {error}")
    for option, column in (("text", names.text), ("text_pair", names.pair), ("label", names.label)):
        if column and known and column not in known:
            fix = "; name the columns of a file without a header in data.columns" if file.suffix != ".jsonl" else ""
            raise InputError(f"data.{option}={column!r} is no column of {str(file)!r}{nearest(column, known)}{fix}")
    first, second, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return _Table(first, second, labels, tuple(bad))


def _records(file: Path, columns: tuple[str, ...], quotes: bool) -> Iterator[tuple[int, Mapping[str, Any] | _Bad]]:
    """(line, {column: field} or what is wrong with it) of each row."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            if file.suffix.lower() == ".jsonl":
                yield from _json_records(lines)
            else:
                yield from _csv_records(lines, file, columns, quotes)
    except UnicodeDecodeError as error:
        raise InputError(f"expected UTF-8 text in {str(file)!r}, found byte {error.object[error.start]:#x}") from None


def _json_records(lines: Iterator[str]) -> Iterator[tuple[int, Mapping[str, Any] | _Bad]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            yield number, _Bad("is no JSON")
        else:
            yield number, record if isinstance(record, dict) else _Bad("is no JSON object")


def _csv_records(
    lines: Iterator[str], file: Path, columns: tuple[str, ...], quotes: bool
) -> Iterator[tuple[int, Mapping[str, Any] | _Bad]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # documents are longer than the 128 KiB it starts with
    quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=DELIMITERS[file.suffix.lower()], quoting=quoting, strict=True)
    header: Sequence[str] = columns
    try:
        for number, fields in enumerate(filter(None, reader)):
            if number == 0 and not columns:
                header = [name.strip() for name in fields]
            elif number == 0 and tuple(fields) == columns:
                raise InputError(f"{str(file)!r} has a header, the columns themselves; remove data.columns")
            elif len(fields) != len(header):
                yield reader.line_num, _Bad(f"has {len(fields)} fields for {len(header)} columns")
            else:
                yield reader.line_num, dict(zip(header, fields, strict=True))
            if number == 0 and len(set(header)) < len(header):
                raise InputError(f"expected columns of different names in {str(file)!r}, found {', '.join(header)}")
    except csv.Error as error:
        fix = "close the quote, or set data.quotes=false where quotes are plain characters" if quotes else "correct it"
        raise InputError(f"{file.name}:{reader.line_num} of {str(file)!r} can't be read ({error}); {fix}") from None


def _row(record: Mapping[str, Any], names: _Columns, read_label: Callable[[Any], Any]) -> tuple[str, str, Any]:
    """(text, partner or '', label)."""
    found = []
    for column in (names.text, *([names.pair] if names.pair else [])):
        value = record.get(column)
        if not isinstance(value, str) or not value.strip():
            raise _Bad(f"has no text in {column!r}")
        found.append(value)
    if names.label not in record:
        raise _Bad(f"has no {names.label!r}")
    return found[0], found[1] if names.pair else "", read_label(record[names.label])


def _class(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, str) and value.strip()):
        return str(value).strip()
    raise _Bad(f"has no class: {value!r}")


def _value(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _Bad(f"has no number for a label: {value!r}")
    return number


def _set(value: Any, separator: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(separator)
    elif not isinstance(value, list):
        raise _Bad(f"has no list of labels: {value!r}")
    return tuple(_class(name) for name in value if name != "" and not (isinstance(name, str) and not name.strip()))


def _judge(bad: list[str], tables: Mapping[str, _Table], root: Path, allowed: int) -> tuple[str, ...]:
    """Notes on bad rows that the config allows; `InputError` where there are more."""
    if not bad:
        return ()
    total = sum(len(table.labels) for table in tables.values()) + len(bad)
    shown = "; ".join(bad[:SHOWN]) + ("; ..." if len(bad) > SHOWN else "")
    said = f"{len(bad)} of {total} rows in {str(root)!r} are bad ({shown})"
    if len(bad) > allowed:
        raise InputError(f"{said}; correct them, or leave them out with data.bad_rows={len(bad)}")
    return (f"{said} and left out",)


def _classes(labels: Sequence[Any]) -> tuple[str, ...]:
    """The names in train's labels, numbers by their value."""
    names = {name for label in labels for name in ((label,) if isinstance(label, str) else label)}
    if not names:
        raise InputError("expected labels in the train file, found none; correct data.label or data.separator")
    numbers = all(name.lstrip("-").isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numbers else name))


def _split(table: _Table, classes: tuple[str, ...], target: str, file: Path) -> Split:
    # Which table holds partners is known by its columns alone: an empty partner is a bad row.
    fetch = texts(table.first, table.second if any(table.second) else None)
    if target == "value":
        return Split(labels=np.asarray(table.labels, np.float32), fetch=fetch)
    index = {name: i for i, name in enumerate(classes)}
    sets = [(label,) if target == "class" else label for label in table.labels]
    unknown = sorted({name for names in sets for name in names} - index.keys())
    if unknown:
        fix = "remove its rows or add some to train"
        raise InputError(f"expected the labels of train, found {unknown[0]!r} in {str(file)!r}; {fix}")
    if target == "class":
        return Split(labels=np.asarray([index[name] for (name,) in sets], np.int32), fetch=fetch)
    labels = np.zeros((len(sets), len(classes)), bool)
    for row, names in enumerate(sets):
        labels[row, [index[name] for name in names]] = True
    return Split(labels=labels, fetch=fetch)


def _with_test(splits: Mapping[str, Split], fraction: float) -> dict[str, Split]:
    if "test" in splits:
        raise InputError(f"data.test_fraction={fraction} has no effect where a test file exists; set it to 0")
    test, train = draw(splits["train"].labels, seed=0, stream=Stream.TEST, fraction=fraction)
    return {"test": splits["train"].take(test), "train": splits["train"].take(train)}
