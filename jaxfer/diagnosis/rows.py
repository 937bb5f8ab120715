"""Columns of a table that say nothing, are mostly missing, or give the label away. The training rows alone are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from jaxfer.data.encodings.row import Rows
from jaxfer.diagnosis.finding import NOTE, SEVERE, WARNING, Example, Finding, percent, reached
from jaxfer.diagnosis.opened import Opened
from jaxfer.diagnosis.shortcuts import shortcut

MISSING = {WARNING: 0.5, NOTE: 0.2}  # share of the rows
SHORTCUT = {SEVERE: 0.99, WARNING: 0.95}  # balanced accuracy of one column alone
FIX = "leave it out of data.numbers or data.categories if it is not known when the model is used"


def check(opened: Opened) -> Iterator[Finding]:
    """One finding for each column and kind."""
    split = opened.splits["train"]
    column = split.columns.get("row")
    if not isinstance(column, Rows):
        return
    rows = [split.example("row", i) for i in range(len(split))]
    for name in (*column.numbers, *column.categories):
        values = [row[name] for row in rows]
        known = [value for value in values if value is not None]
        yield from _missing(opened, name, np.array([value is None for value in values]))
        if len(set(known)) <= 1 and len(known) in (0, len(values)):  # with a gap, what is missing may tell something
            yield Finding(
                severity=WARNING,
                kind="constant_column",
                message=f"Column {name} has one value in all {len(values):,} training rows: {known[0]!r}."
                if known
                else f"Column {name} is missing in all {len(values):,} training rows.",
                fix="leave it out of data.numbers or data.categories",
                value=len(set(known)),
                threshold=2,
                examples=(Example(split="train", name=name, says=f"{known[0]!r} alone" if known else "nothing"),),
            )
        elif opened.one_class:
            readable, some = _readable(values, name in column.numbers), _values(opened, name, values)
            yield from shortcut(f"Column {name}", readable, split.labels, SHORTCUT, FIX, some)


def _values(opened: Opened, name: str, values: list[float | str | None]) -> Callable[[np.ndarray], tuple[Example, ...]]:
    """Rows -> examples with the column's value and the class."""
    classes, labels = opened.data.classes, opened.splits["train"].labels
    return lambda rows: opened.some("train", rows, lambda i: f"{name} is {values[i]!r}, class {classes[labels[i]]}")


def _missing(opened: Opened, name: str, missing: np.ndarray) -> Iterator[Finding]:
    share = float(missing.mean())
    if share < 1 and (found := reached(share, MISSING)):
        severity, threshold = found
        yield Finding(
            severity=severity,
            kind="missing_values",
            message=f"Column {name} is missing in {percent(share)} of the training rows.",
            fix="leave it out of data.numbers or data.categories, or fill it in the files",
            value=share,
            threshold=threshold,
            examples=opened.some("train", np.flatnonzero(missing), lambda i: f"no {name}"),
        )


def _readable(values: list[float | str | None], number: bool) -> np.ndarray:
    """[n, columns]: a number and whether it is missing, or one column for each value of a category."""
    missing = np.array([value is None for value in values])
    if number:
        filled = np.array([0.0 if value is None else value for value in values], np.float64)
        return np.stack([filled, missing], 1)
    words = sorted({value for value in values if value is not None})
    return np.stack([missing, *(np.array([value == word for value in values]) for word in words)], 1)
