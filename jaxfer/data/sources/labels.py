"""Labels as tables write them: a class, a number, or a set of classes; and the order of the classes."""

from __future__ import annotations

import ast
import contextlib
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from jaxfer.data.sources.rows import Bad
from jaxfer.data.split import GROUP, Array
from jaxfer.errors import InputError

TARGETS = ("class", "value", "labels")
LARGEST = float(np.finfo(np.float32).max)

# The start of a list that was written as text; `[joy]` is a name.
_LISTLIKE = re.compile(r"""\[\s*['"0-9\]-]""")
_NUMBER = re.compile(r"-?\d+(\.\d*)?")
# A list as pandas writes it, `['a', 'b']`; not NumPy's `['a' 'b']`, which Python would read as 'ab'.
_ITEM = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|-?[0-9]+(?:\.[0-9]*)?)"""
_LIST = re.compile(rf"\[\s*(?:{_ITEM}\s*(?:,\s*{_ITEM}\s*)*)?\]", re.DOTALL)


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


def group_of(record: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The name of a record's group, `cat, light`: its fields in these columns; `Bad` where one is empty."""
    fields = []
    for column in columns:
        try:
            fields.append(_class(record.get(column)))
        except Bad:
            raise Bad(f"has no group in {column!r}") from None
    return ", ".join(fields)


def groups(names: Sequence[str]) -> Array:
    """The column of groups, of a name for each example."""
    return Array(np.asarray(names, np.str_), GROUP)


def check_group(group: Sequence[str], target: str) -> None:
    """`InputError` for groups of other labels than classes: no other task tells its metrics apart by them."""
    if group and target != "class":
        raise InputError(f"data.group={tuple(group)!r} goes with data.target='class', found {target!r}; remove it")


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
