"""Labels as tables write them: a class, a number, or a set of classes; and the order of the classes."""

from __future__ import annotations

import ast
import contextlib
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.data.sources.rows import Bad
from jaxfer.data.split import Array
from jaxfer.errors import InputError, nearest

TARGETS = ("class", "value", "labels")
LARGEST = float(np.finfo(np.float32).max)

# The start of a list that was written as text; `[joy]` is a name.
_LISTLIKE = re.compile(r"""\[\s*['"0-9\]-]""")
_NUMBER = re.compile(r"-?\d+(\.\d*)?")
# A list as pandas writes it, `['a', 'b']`; not NumPy's `['a' 'b']`, which Python would read as 'ab'.
_ITEM = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|-?[0-9]+(?:\.[0-9]*)?)"""
_LIST = re.compile(rf"\[\s*(?:{_ITEM}\s*(?:,\s*{_ITEM}\s*)*)?\]", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Where a table has its labels, and what they are.

    Attributes:
      column: of the labels.
      target: one of `TARGETS`.
      separator: between the names of a set.
      columns: several columns instead, each with names of its own: a set of `column=name`.
      one_hot: columns of 0 and 1 instead, one for each class.
    """

    column: str = "label"
    target: str = "class"
    separator: str = ";"
    columns: tuple[str, ...] = ()
    one_hot: tuple[str, ...] = ()

    def check(self) -> Labels:
        """Itself; `InputError` for options that don't go together."""
        if self.target not in TARGETS:
            raise InputError(f"unknown data.target {self.target!r}{nearest(str(self.target), TARGETS)}")
        if not self.separator:
            raise InputError("expected data.separator to be a character between labels, found none; ';' is the default")
        if self.columns and self.one_hot:
            raise InputError("data.label_columns and data.one_hot both name columns of labels; set one of the two")
        if self.columns and self.target != "labels":
            raise InputError(f"data.label_columns are a set of labels, found data.target={self.target!r}; set 'labels'")
        if self.one_hot and self.target == "value":
            raise InputError("data.one_hot names classes, found data.target='value'; set 'class' or 'labels'")
        return self

    def used(self) -> dict[str, str]:
        """{column that is read: the option that names it}."""
        several = dict.fromkeys(self.columns, "label_columns") | dict.fromkeys(self.one_hot, "one_hot")
        return several or ({self.column: "label"} if self.column else {})

    def read(self, record: Mapping[str, Any]) -> Any:
        """The label of a row: a name, a number, or the names of a set; raises `Bad` where it has none."""
        for column in self.one_hot or self.columns or (self.column,):
            if column not in record:
                raise Bad(f"has no {column!r}")
        if self.one_hot:
            names = tuple(column for column in self.one_hot if _bit(record[column], column))
            if self.target == "class" and len(names) != 1:
                raise Bad(f"has {len(names)} of the classes in data.one_hot (data.target='labels' reads sets)")
            return names if self.target == "labels" else names[0]
        if self.columns:
            return tuple(f"{name}={_class(record[name])}" for name in self.columns if record[name] not in ("", None))
        return reader(self.target, self.separator)(record[self.column])

    def classes(self, labels: Sequence[Any]) -> tuple[str, ...]:
        """The classes in the labels of train, in order; () of numbers."""
        return () if self.target == "value" else self.one_hot or class_names(labels)


def array(labels: Sequence[Any], classes: tuple[str, ...], target: str, file: Path) -> Array:
    """The column of these labels; `InputError` for one that is no class of train, naming the file."""
    if target == "value":
        return Array(np.asarray(labels, np.float32), "value")
    index = {name: i for i, name in enumerate(classes)}
    sets = [(label,) if target == "class" else label for label in labels]
    unknown = sorted({name for names in sets for name in names} - index.keys())
    if unknown:
        fix = "remove its rows or add some to train"
        raise InputError(f"expected the labels of train, found {unknown[0]!r} in {str(file)!r}; {fix}")
    if target == "class":
        return Array(np.asarray([index[name] for (name,) in sets], np.int32), "class")
    held = np.zeros((len(sets), len(classes)), bool)
    for row, names in enumerate(sets):
        held[row, [index[name] for name in names]] = True
    return Array(held, "classes")


def reader(target: str, separator: str) -> Callable[[Any], Any]:
    """The function that reads a field as `target`, one of `TARGETS`; it raises `Bad` if the field has no such value."""
    return {"class": _class, "value": _value, "labels": lambda value: _set(value, separator)}[target]


def class_names(labels: Sequence[str | tuple[str, ...]]) -> tuple[str, ...]:
    """The distinct names in the labels of `class` or `labels`; numbers by their value, other names as text."""
    names = {name for label in labels for name in ((label,) if isinstance(label, str) else label)}
    numbers = all(_NUMBER.fullmatch(name) for name in names)
    return tuple(sorted(names, key=lambda name: (Decimal(name), name) if numbers else name))


def lookalikes(names: Sequence[str]) -> tuple[str, ...]:
    """A line for each group of classes that are probably one: the same number, or the same word but for its case."""
    groups: dict[Any, list[str]] = {}
    for name in names:
        groups.setdefault(Decimal(name) if _NUMBER.fullmatch(name) else name.casefold(), []).append(name)
    return tuple(
        f"classes {' and '.join(map(repr, group))} "
        + ("are the same number" if isinstance(key, Decimal) else "differ only in case")
        + "; they are kept separate"
        for key, group in groups.items()
        if len(group) > 1
    )


def _bit(value: Any, column: str) -> bool:
    bit = {"1": True, "0": False, "true": True, "false": False}.get(str(value).strip().lower().removesuffix(".0"))
    if bit is None:
        raise Bad(f"has no 0 or 1 in {column!r}: {reprlib.repr(value)}")
    return bit


def _class(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.strip():
        return readable(value).strip()
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    raise Bad(f"has no class: {reprlib.repr(value)}")


def _value(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except OverflowError:
        number = LARGEST * 2
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise Bad(f"has a label that is not a number: {reprlib.repr(value)}")
    if abs(number) > LARGEST:
        raise Bad(f"has a label beyond float32: {reprlib.repr(value)}")
    return number


def _set(value: Any, separator: str) -> tuple[str, ...]:
    if isinstance(value, str):
        listed = value.strip()
        value = _members(listed) if _LISTLIKE.match(listed) else value.split(separator)
    elif not isinstance(value, list):
        raise Bad(f"has no list of labels: {reprlib.repr(value)}")
    return tuple(_class(name) for name in value if name != "" and not (isinstance(name, str) and not name.strip()))


def _members(listed: str) -> list[Any]:
    """The members of a list written as text."""
    if _LIST.fullmatch(listed):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return list(ast.literal_eval(listed))
    raise Bad(f"has no list of labels: {reprlib.repr(listed)}")


def readable(value: str) -> str:
    """The text; raises `Bad` if it contains half of a surrogate pair, which no encoding can write."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Bad("has an unpaired surrogate, which is not a character") from None
    return value
