"""Sounds and what is said in them: .wav files named in tables, beside their words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxfer.data import index
from jaxfer.data.encodings import wav
from jaxfer.data.encodings.target import Targets
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.sources.labels import readable
from jaxfer.data.sources.rows import Bad, Dialect, allowed, judged, records
from jaxfer.data.sources.sounds import Sounds
from jaxfer.data.sources.splitfiles import split_files
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError, nearest


def source(
    *,
    path: str = "",
    train: str = "",
    val: str = "",
    test: str = "",
    file: str = "file_name",
    target: str = "transcription",
    delimiter: str = "",
    encoding: str = "utf-8",
    bad_rows: int | str = 0,
) -> Dataset:
    """A folder with train.csv, val.csv and test.csv (or .tsv, .jsonl), or one such file that is all `train`.

    A row names a .wav file, relative to its table, and its words; the default columns are those of Hugging Face's
    `metadata.csv`.

    Args:
      path: the folder or file; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      train: name of the training table in that folder; empty: chosen by name.
      val: likewise; `none` leaves it out, so that val is drawn from train.
      test: likewise; `none` leaves it out.
      file: column of the files.
      target: column of the words.
      delimiter: between the fields; empty: a comma in .csv, a tab in .tsv.
      encoding: of the tables, as Python names it.
      bad_rows: number of rows without words or a readable file that may be left out, with a note; `skip`: any number.

    Raises:
      InputError: no such file or column, no rows, or more bad ones than allowed.
    """
    dialect = Dialect(columns=(), delimiter=delimiter, encoding=encoding, quotes=True).check()
    limit, root = allowed(bad_rows), locate(path, "transcripts")
    files, notes = split_files(root, {"train": train, "val": val, "test": test}, dialect)
    return _read(files, notes, root, (file, target), dialect, limit)


def _read(
    files: Mapping[str, Path],
    notes: tuple[str, ...],
    root: Path,
    names: tuple[str, str],
    dialect: Dialect,
    limit: float,
) -> Dataset:
    """The dataset in these tables; `names`: their two columns."""
    splits, bad, total, empty = {}, [], 0, []
    for split, table in files.items():
        rows = []
        for where, record in records(table, dialect, ""):
            total += 1
            try:
                if isinstance(record, Bad):
                    raise record
                for option, name in zip(("file", "target"), names, strict=True):
                    if name not in record and not rows:
                        raise InputError(
                            f"data.{option}={name!r} is not a column of {str(table)!r}{nearest(name, record.keys())}"
                        )
                rows.append(_row(table.parent, record, names))
            except Bad as error:
                bad.append(f"{table.name}:{where} {error}")
        empty += [] if rows else [table]
        if rows:
            sounds, rates, lengths, channels, said = zip(*rows, strict=True)
            wide = sum(count > 1 for count in channels)
            column = Sounds(table.parent, sounds, np.asarray(rates), np.asarray(lengths), wide)
            splits[split] = Split.whole(audio=column, target_text=Targets(said))
    notes += judged(bad, total, root, limit)
    if empty:
        raise InputError(f"expected rows in {str(empty[0])!r}, found none; add some or remove the file")
    parts = [part for name, split in splits.items() for part in (name, *(c.sha256 for c in split.columns.values()))]
    index.keep()
    return Dataset(
        splits=splits,
        classes=(),
        fingerprint=fingerprint(parts),
        notes=notes,
        bad=tuple(bad),
        provenance={split: table.name for split, table in files.items()},
    )


def _row(folder: Path, record: Mapping[str, object], names: tuple[str, str]) -> tuple[str, int, int, int, str]:
    """(file, samples a second, samples, channels, words)."""
    name, said = (record.get(column) for column in names)
    if not isinstance(said, str) or not said.strip():
        raise Bad(f"has no words in {names[1]!r}")
    if not isinstance(name, str) or not (folder / name).is_file():
        raise Bad(f"names no file: {name!r}")
    try:
        found = wav.header(folder / name)
    except InputError as error:
        raise Bad(f"names no sound: {error}") from None
    return name, found.rate, found.length, found.channels, readable(said)
