"""Windows of a long series for forecasting: a table with a row for each point in time, cut in time order."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.data import index
from jaxfer.data.lookup import fingerprint, locate
from jaxfer.data.sources import labels as reading
from jaxfer.data.sources.about import About
from jaxfer.data.sources.rows import Bad, Dialect, records
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError, nearest

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False, repr=False)
class Windows:
    """Parts of one series, [length, channels] float32 each; two columns of them share its values.

    Attributes:
      values: float32 [time, channels].
      starts: int64 [n], the first point of each.
      length: points of each.
      kind: `series` of what a model reads, `future` of what it forecasts.
      season: points of a season.
      naive: of each channel, the mean absolute error of the training part forecast by the value a season before.
    """

    values: np.ndarray
    starts: np.ndarray
    length: int
    kind: str
    season: int = 1
    naive: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> np.ndarray:
        start = int(self.starts[row])
        return self.values[start : start + self.length]

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the values and the places."""
        return fingerprint([self.kind, self.values, self.starts, f"{self.length} {self.season} {self.naive}"])


def source(
    *,
    path: str = "",
    values: tuple[str, ...] = (),
    history: int = 96,
    horizon: int = 24,
    season: int = 1,
    every: int = 1,
    val_share: float = 0.1,
    test_share: float = 0.2,
    standardize: bool = True,
    time: str = "",
    columns: tuple[str, ...] = (),
    delimiter: str = "",
    encoding: str = "utf-8",
    quotes: bool = True,
) -> Dataset:
    """One file whose rows are points in time at equal distances, oldest first.

    The first rows are `train`, the next `val`, the last `test`. A window lies in one of them: neither its history nor
    its future reaches into another.

    Args:
      path: the file; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      values: columns of numbers, which are the channels.
      history: points that a model reads, its `length`.
      horizon: points that it forecasts, the task's `horizon`.
      season: points of a season (24 of hourly values a day): what the seasonal naive forecast repeats.
      every: points from one window to the next.
      val_share: of the rows.
      test_share: of the rows; 0 makes no test split.
      standardize: whether each channel has mean 0 and standard deviation 1 over the training rows, as in benchmarks;
        else values and forecasts are in the file's unit.
      time: column of the time, which must rise from row to row; empty: not checked.
      columns: names of the columns of a .csv or .tsv without a header.
      delimiter: between the fields; empty: a comma in .csv, a tab in .tsv.
      encoding: of the file, as Python names it.
      quotes: whether `"` quotes a field.

    Raises:
      InputError: no such file or column, a row without a number, times that fall, or a split too short for a window.
    """
    sizes = {"history": history, "horizon": horizon, "season": season, "every": every}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"expected data.{name} >= 1, found {size}")
    if season > history:
        raise InputError(f"expected data.season of at most data.history={history}, found {season}; raise the history")
    if not 0 < val_share < 1 or not 0 <= test_share < 1 or val_share + test_share >= 1:
        found = f"val_share={val_share:g}, test_share={test_share:g}"
        raise InputError(f"expected shares that leave some rows for training, found {found}; 0.1 and 0.2 are usual")
    if not values or len(set(values)) < len(values):
        raise InputError(f"expected columns in data.values, each once, found {values!r}; name them")
    dialect = Dialect(columns=columns, delimiter=delimiter, encoding=encoding, quotes=quotes).check()
    file = locate(path, "csv_series")
    if not file.is_file():
        raise InputError(f"data.path: expected one file, found the folder {str(file)!r}; name a file in it")
    cut = (history, horizon, season, every, val_share, test_share, standardize)
    return _read({"train": file}, values, About((), time), dialect, cut)


@index.once
def _read(
    files: Mapping[str, Path], names: tuple[str, ...], about: About, dialect: Dialect, cut: tuple[Any, ...]
) -> Dataset:
    history, horizon, season, every, val_share, test_share, standardize = cut
    file = files["train"]
    series = _series(file, names, about, dialect)
    ends = np.cumsum(_counts(len(series), val_share, test_share))
    train = series[: ends[0]]
    if len(train) <= season:
        raise InputError(f"expected more training rows than data.season={season}, found {len(train)}")
    if standardize:
        spread = np.where(np.ptp(train, 0) > 0, train.std(0), 1.0)
        series = (series - train.mean(0)) / spread
        train = series[: ends[0]]
    naive = tuple(float(error) for error in np.abs(train[season:] - train[:-season]).mean(0))
    values, splits, provenance = series.astype(np.float32), {}, {}
    for name, begin, end in zip(SPLITS, (0, *ends), ends, strict=False):
        if name == "test" and not test_share:
            break
        starts = np.arange(begin, end - history - horizon + 1, every, dtype=np.int64)
        if not len(starts):
            needed = f"{history} + {horizon}"
            raise InputError(f"{name} has {end - begin} rows, a window needs {needed}; lower data.history or add rows")
        past = Windows(values, starts, history, "series")
        future = Windows(values, starts + history, horizon, "future", season, naive)
        splits[name] = Split.whole(series=past, future=future)
        provenance[name] = f"rows {begin:,} to {end - 1:,} of {file.name}"
    content = fingerprint([part for split in splits.values() for part in (split.columns["future"].sha256, str(cut))])
    notes = ("values are standardised by the training rows (data.standardize)",) if standardize else ()
    return Dataset(splits=splits, classes=(), fingerprint=content, notes=notes, provenance=provenance)


def _counts(rows: int, val_share: float, test_share: float) -> tuple[int, int, int]:
    """Rows of train, val and test."""
    val, test = (math.floor(rows * share + 1e-9) for share in (val_share, test_share))
    return rows - val - test, val, test


def _series(file: Path, names: tuple[str, ...], about: About, dialect: Dialect) -> np.ndarray:
    """float64 [rows, channels]."""
    rows, before = [], -math.inf
    for where, record in records(file, dialect, ""):
        try:
            if isinstance(record, Bad):
                raise record
            for option, used in (("values", names), ("time", about.used())):
                for name in used:
                    if name not in record:
                        fix = nearest(name, record)
                        raise InputError(f"data.{option}: {name!r} is not a column of {str(file)!r}{fix}")
            now = about.read(record)[1] if about.time else len(rows)
            if now <= before:
                raise Bad(f"has a time in {about.time!r} that is not later than the row's before it; sort the rows")
            before = now
            rows.append([_number(name, record[name]) for name in names])
        except Bad as error:
            raise InputError(f"{file.name}:{where} {error}; a series has every value, in order of time") from None
    if not rows:
        raise InputError(f"expected rows in {str(file)!r}, found none; add some")
    return np.asarray(rows, np.float64)


def _number(name: str, value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= reading.LARGEST:
        raise Bad(f"has no number in {name!r}: {str(value)[:40]!r}")
    return number
