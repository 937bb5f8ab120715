"""Groups of files, from a table that lies beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.data.lookup import fingerprint
from jaxfer.data.sources.about import About
from jaxfer.data.sources.rows import Bad, Dialect, records
from jaxfer.data.split import GROUP, Array, Dataset
from jaxfer.errors import InputError, nearest

FILE = "file"  # the column of the files' names, relative to the data's folder


def grouped(dataset: Dataset, table: str, columns: Sequence[str]) -> Dataset:
    """The data of class folders with the column `group` of a table.

    Args:
      dataset: its columns are of files, in the folder `listed`.
      table: the table's name in that folder; .csv, .tsv or .jsonl, with a column `file`: `train/cat/a.jpg`.
      columns: whose fields together name a group.

    Raises:
      InputError: no such table or column, a bad row, or a file that the table lacks.
    """
    file = dataset.listed / table
    if not file.is_file():
        raise InputError(f"data.group: expected a table at {str(file)!r}, found none; add it or set data.group_table")
    rows, splits, names = _rows(file, columns), {}, []
    for name, split in dataset.splits.items():
        files = split.input[1].names
        absent = [one for one in files if one not in rows]
        if absent:
            count = f"{len(absent)} of {len(files)} files"
            raise InputError(f"{str(file)!r} lacks {count} of {name}, the first is {absent[0]!r}; add their rows")
        names.append([rows[one] for one in files])
        splits[name] = split.with_column(GROUP, Array(np.asarray(names[-1], np.str_), GROUP))
    content = fingerprint([dataset.fingerprint, *(one for each in names for one in each)])
    return dataclasses.replace(dataset, splits=splits, fingerprint=content)


def _rows(file: Any, columns: Sequence[str]) -> Mapping[str, str]:
    """{file: its group}."""
    rows: dict[str, str] = {}
    for where, record in records(file, Dialect().check(), ""):
        try:
            if isinstance(record, Bad):
                raise record
            for column in (FILE, *columns):
                if column not in record:
                    problem = f"data.group: {column!r} is not a column of {str(file)!r}"
                    raise InputError(f"{problem}{nearest(column, record)}")
            rows[str(record[FILE])], _ = About(group=tuple(columns)).read(record)
        except Bad as error:
            raise InputError(f"{file.name}:{where} of {str(file)!r} {error}; correct it") from None
    return rows
