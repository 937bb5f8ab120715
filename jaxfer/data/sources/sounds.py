"""Sounds in folders: the name of a file's folder is its class."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from jaxfer.data.encodings import wav
from jaxfer.data.index import Look
from jaxfer.data.lookup import fingerprint
from jaxfer.data.sources import classfolders
from jaxfer.data.split import Dataset
from jaxfer.errors import InputError

FORMATS = (".wav",)


def source(
    *,
    path: str = "",
    test_fraction: float = 0.0,
    suffixes: tuple[str, ...] = FORMATS,
    nested: bool = False,
    names: tuple[str, ...] | None = None,
    val_names: tuple[str, ...] = (),
    bad_rows: int | str | None = None,
) -> Dataset:
    """PATH/{train,val,test}/CLASS/*.wav, or PATH/CLASS/*.wav if all sounds are `train`.

    Files are PCM of 8, 16, 24 or 32 bits, or floats; several channels are averaged, which a note counts. Listing,
    header checks and the fingerprint are those of the source `folder`.

    Args:
      path: the folder; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is no test folder.
      suffixes: the files that are read as sounds, by the ends of their names in lower case; "" reads those without.
      nested: whether sounds in folders below a class folder are read too.
      names: parts of file names (`_george_`): only files with one of them are read. So a speaker can be the source, and
        another the target.
      val_names: parts of file names (`_nicolas_`): the files of `train` with one of them are `val`. So a speaker can be
        held out, where a random draw would test on voices that were trained on.
      bad_rows: as `folder`'s.

    Raises:
      InputError: as `folder`'s; a file that is no sound; names that no training file has, or all of them.
    """
    data = classfolders.dataset(
        path,
        _sounds,
        source="sounds",
        test_fraction=test_fraction,
        suffixes=suffixes,
        nested=nested,
        check=_checked,
        bad_rows=bad_rows,
        only=names or (),
    )
    columns = [split.columns["audio"] for name, split in data.splits.items() if not (test_fraction and name == "test")]
    if wide := sum(column.wide for column in columns):
        total = sum(len(column) for column in columns)
        note = f"{wide:,} of {total:,} sounds have several channels, which are averaged"
        data = dataclasses.replace(data, notes=(*data.notes, note))
    return _with_val(data, val_names) if val_names else data


@dataclass(frozen=True, eq=False, repr=False)
class Sounds(classfolders.Files):
    """A column of sound files: float32 [samples] a row.

    Attributes:
      rates: int [n], samples a second.
      lengths: int [n], samples.
      wide: files with several channels.
    """

    rates: np.ndarray
    lengths: np.ndarray
    wide: int
    kind: ClassVar[str] = "audio"

    def __getitem__(self, row: int) -> np.ndarray:
        return wav.decode(self.root / self.names[row])


def _sounds(files: Look, names: tuple[str, ...]) -> Sounds:
    """The column, every header read."""
    headers = np.array([_checked(files, name) for name in names], np.int64)
    rates, lengths, channels = headers.T
    return Sounds(files.root, names, rates, lengths, int((channels > 1).sum()))


def _checked(files: Look, name: str) -> tuple[int, int, int]:
    return files.fact(name, "sound", _header)


def _header(file: Path) -> tuple[int, int, int]:
    found = wav.header(file)
    return found.rate, found.length, found.channels


def _with_val(data: Dataset, parts: tuple[str, ...]) -> Dataset:
    """The data with the training files of these names as `val`."""
    if "val" in data.splits:
        raise InputError(f"data.val_names={parts} has no effect where a val folder exists; remove it")
    train = data.splits["train"]
    files = [Path(train.columns["audio"].names[row]).name for row in train.rows]
    for part in parts:
        if not part or not any(part in file for file in files):
            raise InputError(f"data.val_names: expected parts of file names such as {files[0]!r}, found {part!r}")
    held = np.array([any(part in file for part in parts) for file in files])
    if held.all():
        raise InputError(f"data.val_names={parts} leaves no sound to train on; name fewer")
    splits = {**data.splits, "train": train.take(np.flatnonzero(~held)), "val": train.take(np.flatnonzero(held))}
    provenance = {**data.provenance, "val": f"of train: data.val_names={','.join(parts)}"}
    content = fingerprint([data.fingerprint, "val_names", *parts])
    return dataclasses.replace(data, splits=splits, provenance=provenance, fingerprint=content)
