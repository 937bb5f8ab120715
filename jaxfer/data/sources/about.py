"""Columns about an example that no model reads: the group it is of, and its time. Splits may be drawn by them."""

from __future__ import annotations

import datetime
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfer.data.sources.labels import reader
from jaxfer.data.sources.rows import Bad
from jaxfer.data.split import Array


class About(NamedTuple):
    """Names of the columns; empty where none is read. As `data.group` and `data.time` name them."""

    group: tuple[str, ...] = ()
    time: str = ""

    def used(self) -> dict[str, str]:
        """{column that is read: the option that names it}."""
        return dict.fromkeys(self.group, "group") | ({self.time: "time"} if self.time else {})

    def read(self, record: Mapping[str, Any]) -> tuple[str, float]:
        """(group, time) of a row, "" and 0 where not read; several columns make `cat, light`. Raises `Bad`."""
        for column in self.used():
            if column not in record:
                raise Bad(f"has no {column!r}")
        group = ", ".join(self._field(record, column) for column in self.group)
        return group, _time(record[self.time]) if self.time else 0.0

    @staticmethod
    def _field(record: Mapping[str, Any], column: str) -> str:
        try:
            return reader("class", "")(record[column])
        except Bad:
            raise Bad(f"has no group in {column!r}") from None

    def columns(self, found: Sequence[tuple[str, float]]) -> dict[str, Array]:
        """The columns of a split, from what `read` returned for its rows."""
        groups, times = zip(*found, strict=True) if found else ((), ())
        columns = {"group": Array(np.asarray(groups, np.str_), "group")} if self.group else {}
        return columns | ({"time": Array(np.asarray(times, np.float64), "time")} if self.time else {})


def _time(value: Any) -> float:
    """A number as it is, a date or time in seconds since 1970, UTC where it names no zone."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                value = datetime.datetime.fromisoformat(value.strip())
            except ValueError:
                raise Bad(f"has no time: {reprlib.repr(value)}") from None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, datetime.datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise Bad(f"has no time: {reprlib.repr(value)}")
    return float(value)
