"""Images with a table of labels: a column names the file of each image, or holds the image itself."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxfer.data import index
from jaxfer.data.lookup import fingerprint, locate, parts
from jaxfer.data.sources import arrow, classfolders, folder
from jaxfer.data.sources.about import About
from jaxfer.data.sources.imagerows import Asked, Content, How, Row, dataset, read
from jaxfer.data.sources.labels import Labels
from jaxfer.data.sources.rows import Dialect, allowed
from jaxfer.data.sources.splitfiles import FORMATS, split_files
from jaxfer.data.split import Column, Dataset
from jaxfer.errors import InputError


def source(
    *,
    path: str = "",
    train: str = "",
    val: str = "",
    test: str = "",
    images: str = "",
    file: str = "path",
    suffix: str = "",
    text: str = "",
    label: str = "label",
    label_columns: tuple[str, ...] = (),
    one_hot: tuple[str, ...] = (),
    target: str = "class",
    separator: str = ";",
    split: str = "",
    group: tuple[str, ...] = (),
    time: str = "",
    columns: tuple[str, ...] = (),
    delimiter: str = "",
    encoding: str = "utf-8",
    exif_orientation: bool = True,
    bad_rows: int | str = 0,
    test_fraction: float = 0.0,
) -> Dataset:
    """A folder with images and a table (.csv, .tsv, .jsonl, .parquet, .arrow), or with train.*, val.* and test.*.

    `val` may be called `dev`, `valid` or `validation`. A row is an image. It is bad if it names no file that can be
    read, or has no label. A table of Parquet or Arrow may hold the images as bytes, as Hugging Face's data sets do:
    also a folder that `save_to_disk` wrote, or one of shards; names of classes are taken from it.

    The header of every image is read before a run, and what was read is remembered, as for the source `folder`. The
    fingerprint covers the labels, and of each file its name, its size, and its first and last 4 KiB.

    Args:
      path: the folder, or the table in it; a relative one that is absent is looked up in the folder that JAXFER_DATA
        names.
      train: name of the table of `train` in that folder; empty: chosen by name, or the only one there is.
      val: likewise; `none` leaves it out, so that val is drawn from train.
      test: likewise; `none` leaves it out.
      images: the folder of the images, relative to the table's; empty: the table's.
      file: column of the files, relative to that folder, or of the images as bytes. If the table has no column `path`:
        another usual name, with a note.
      suffix: added to each file's name (`.jpg`), where the column has none.
      text: column of a text about the image, for models that read both; the label may then be empty. An image with
        several texts has several rows, which `group=path` keeps in one split.
      label: column of the labels; empty: none is read.
      label_columns: several columns of names instead, with target `labels`: the label `blue` in the column `colour` is
        the class `colour=blue`, and an empty field is none.
      one_hot: columns of 0 and 1 instead, which are the classes in this order: one 1 in a row with target `class`, any
        number with `labels`.
      target: `class` for one class an image, `value` for regression, `labels` for a set of names, which may be empty:
        `a;b`, `['a', 'b']`, or a list.
      separator: between the names of a set.
      split: column that says which split a row is of: train, val (dev, valid, validation) or test.
      group: column of the group of an example, such as its patient, or several, which together name it: metrics are
        told apart by it (`worst_group_accuracy`), and `data.val_by=group` keeps groups whole. No model reads it.
      time: column of the time of an example: a number, or a date as ISO 8601 has it; `data.val_by=time` holds out the
        last ones.
      columns: names of the columns of a .csv or .tsv without a header.
      delimiter: between the fields; empty: a comma in .csv, a tab in .tsv.
      encoding: of the table, as Python names it.
      exif_orientation: whether photographs are turned upright as their EXIF orientation says, which a note counts;
        false leaves them as they are stored.
      bad_rows: number of bad rows that may be left out, with a note; `skip`: any number.
      test_fraction: the share of each class taken out of `train` as a fixed `test`, where there is none.

    Raises:
      InputError: no such folder, table or column, no rows, more bad rows than allowed, or labels that train does not
        have.
    """
    if not 0 <= test_fraction < 1:
        raise InputError(f"expected data.test_fraction from 0 to below 1, found {test_fraction}; 0 is the default")
    labels = Labels(column=label, target=target, separator=separator, columns=label_columns, one_hot=one_hot).check()
    dialect = Dialect(columns=columns, delimiter=delimiter, encoding=encoding).check()
    root, limit = locate(path, "image_table"), allowed(bad_rows)
    tables, notes = _tables(root, {"train": train, "val": val, "test": test}, dialect)
    if split and len(tables) > 1:
        names = " and ".join(table.name for table in tables.values())
        raise InputError(f"data.split={split!r} is for one table, found {names}; set data.val and data.test to 'none'")
    base = (root if root.is_dir() else root.parent) / images
    asked = Asked(base, file, suffix, labels, split, About(group, time), text)
    how = How(limit, exif_orientation, test_fraction)
    content = read(tables, asked, dialect)
    data = _of_bytes(tables, asked, dialect, how) if content.bytes_in else _of_files(content, asked, how)
    return folder.with_orientation(dataclasses.replace(data, notes=(*notes, *data.notes)))


def _tables(root: Path, chosen: Mapping[str, str], dialect: Dialect) -> tuple[dict[str, Path], tuple[str, ...]]:
    """As `split_files`; a folder's only table is `train`, whatever its name."""
    if root.is_dir() and not chosen["train"]:
        found = [file for file in root.iterdir() if file.suffix.lower() in FORMATS and file.is_file()]
        if len(found) == 1:
            chosen = {**chosen, "train": found[0].name}
    return split_files(root, chosen, dialect)


def _of_files(content: Content, asked: Asked, how: How) -> Dataset:
    """The dataset of images in files, every header read."""
    named = sorted({row.image for rows in content.rows.values() for row in rows})
    absent = {name: f"names no file: {name!r}" for name in named if not os.path.isfile(asked.base / name)}
    files = index.look(asked.base, [name for name in named if name not in absent])

    def made() -> Dataset:
        bad = classfolders.unreadable(files, folder.checked, math.inf, "images") if how.limit else {}

        def column(split: str, rows: Sequence[Row]) -> Column:
            return folder.images(files, tuple(row.image for row in rows), how.upright)

        # Their content as the source `folder` takes it.
        ends = files.sum("image_table", lambda: fingerprint(classfolders.named_ends(files, files.stamps)))
        return dataset(content, asked, how, absent | bad, column, ends)

    try:
        return files.made(("image_table", content.sha256, content.bad, asked, how, tuple(absent)), made)
    finally:
        index.keep()


@index.once
def _of_bytes(tables: Mapping[str, Path], asked: Asked, dialect: Dialect, how: How) -> Dataset:
    """The dataset of images in the tables themselves, every header read."""
    content = read(tables, asked, dialect)
    headers = {split: arrow.headers(table, content.bytes_in) for split, table in content.tables.items()}
    left = {}
    for split, rows in content.rows.items():
        found = {(split, row.image): headers[split][row.image] for row in rows}
        left |= {place: header for place, header in found.items() if isinstance(header, str)}

    def column(split: str, rows: Sequence[Row]) -> Column:
        chosen = np.asarray([row.image for row in rows], np.int64)
        turned = sum(headers[split][row] > 1 for row in chosen) if how.upright else None
        return arrow.Images(content.tables[split], content.bytes_in, chosen, turned)

    files = (part for table in dict.fromkeys(content.tables.values()) for part in parts(table))
    ends = fingerprint(piece for file in files for piece in (file.name, *classfolders.ends(file)))
    index.keep()
    return dataset(content, asked, how, left, column, ends)
