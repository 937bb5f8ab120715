"""Texts and the texts that follow from them: translations, summaries, answers; tables of two columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxfer.data import index
from jaxfer.data.encodings.target import Targets
from jaxfer.data.encodings.text import texts
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.sources.labels import readable
from jaxfer.data.sources.rows import Bad, Dialect, allowed, judged, records
from jaxfer.data.sources.splitfiles import split_files
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError, nearest


def source(
    *,
    path: str = "",
    train: str = "",
    val: str = "",
    test: str = "",
    text: str = "source",
    target: str = "target",
    instruction: str = "",
    columns: tuple[str, ...] = (),
    delimiter: str = "",
    encoding: str = "utf-8",
    quotes: bool = True,
    bad_rows: int | str = 0,
) -> Dataset:
    """A folder with train.*, val.* and test.*, or one file that is all `train`, as for the source `table`.

    Args:
      path: the folder or file; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      train: name of the training file in that folder; empty: chosen by name.
      val: likewise; `none` leaves it out, so that val is drawn from train.
      test: likewise; `none` leaves it out.
      text: column of the texts.
      target: column of the texts that follow from them.
      instruction: put before every text: `translate English to German: `.
      columns: names of the columns of a .csv or .tsv without a header.
      delimiter: between the fields; empty: a comma in .csv, a tab in .tsv.
      encoding: of the files, as Python names it.
      quotes: whether `"` quotes a field.
      bad_rows: number of rows without a text or a target that may be left out, with a note; `skip`: any number.

    Raises:
      InputError: no such file or column, no rows, or more bad ones than allowed.
    """
    dialect = Dialect(columns=columns, delimiter=delimiter, encoding=encoding, quotes=quotes).check()
    limit, root = allowed(bad_rows), locate(path, "text_to_text")
    files, notes = split_files(root, {"train": train, "val": val, "test": test}, dialect)
    return _read(files, notes, root, (text, target), instruction, dialect, limit)


@index.once
def _read(
    files: Mapping[str, Path],
    notes: tuple[str, ...],
    root: Path,
    names: tuple[str, str],
    instruction: str,
    dialect: Dialect,
    limit: float,
) -> Dataset:
    """The dataset in these files of the folder `root`; `names`: its two columns."""
    splits, bad, total = {}, [], 0
    for split, file in files.items():
        rows, wrong, count = _rows(file, names, dialect)
        bad, total = bad + wrong, total + count
        if rows or not count:
            first, second = zip(*rows, strict=True) if rows else ((), ())
            splits[split] = Split.whole(text=texts(tuple(instruction + x for x in first)), target_text=Targets(second))
    notes += judged(bad, total, root, limit)
    for split, file in files.items():
        if split not in splits or not len(splits[split]):
            raise InputError(f"expected rows in {str(file)!r}, found none; add some or remove the file")
    parts = [part for name, split in splits.items() for part in (name, *(c.sha256 for c in split.columns.values()))]
    return Dataset(
        splits=splits,
        classes=(),
        fingerprint=fingerprint(parts),
        notes=notes,
        bad=tuple(bad),
        provenance={split: file.name for split, file in files.items()},
    )


def _rows(file: Path, names: tuple[str, str], dialect: Dialect) -> tuple[list[tuple[str, str]], list[str], int]:
    """(pairs, the line and the reason of each bad row, number of rows)."""
    rows, bad, count = [], [], 0
    for where, record in records(file, dialect, ""):
        count += 1
        try:
            if isinstance(record, Bad):
                raise record
            for option, name in zip(("text", "target"), names, strict=True):
                if name not in record and count == 1:
                    raise InputError(
                        f"data.{option}={name!r} is not a column of {str(file)!r}{nearest(name, record.keys())}"
                    )
            rows.append(tuple(_text(record, name) for name in names))
        except Bad as error:
            bad.append(f"{file.name}:{where} {error}")
    return rows, bad, count


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Bad(f"has no text in {name!r}")
    return readable(value)
