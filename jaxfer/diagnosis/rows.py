"""Columns of a table that say nothing, are mostly missing, or give the label away. The training rows alone are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from jaxfer.data.encodings.row import Rows
from jaxfer.diagnosis.finding import NOTE, SEVERE, WARNING, Finding, percent
from jaxfer.diagnosis.opened import Opened

MISSING = {WARNING: 0.5, NOTE: 0.2}  # share of the rows
SHORTCUT = {SEVERE: 0.99, WARNING: 0.95}  # balanced accuracy of one column alone
FOLDS = 5
ROWS = 20  # fewest in which a column may give the label away


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
        yield from _missing(name, 1 - len(known) / len(values))
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
            )
        elif opened.one_class and len(values) >= ROWS:
            yield from _shortcut(name, _readable(values, name in column.numbers), split.labels)


def _missing(name: str, share: float) -> Iterator[Finding]:
    for severity, threshold in MISSING.items():
        if threshold <= share < 1:
            yield Finding(
                severity=severity,
                kind="missing_values",
                message=f"Column {name} is missing in {percent(share)} of the training rows.",
                fix="leave it out of data.numbers or data.categories, or fill it in the files",
                value=share,
                threshold=threshold,
            )
            return


def _readable(values: list[float | str | None], number: bool) -> np.ndarray:
    """[n, columns]: a number and whether it is missing, or one column for each value of a category."""
    missing = np.array([value is None for value in values])
    if number:
        filled = np.array([0.0 if value is None else value for value in values], np.float64)
        return np.stack([filled, missing], 1)
    words = sorted({value for value in values if value is not None})
    return np.stack([missing, *(np.array([value == word for value in values]) for word in words)], 1)


def _shortcut(name: str, x: np.ndarray, labels: np.ndarray) -> Iterator[Finding]:
    counts = np.bincount(labels)
    classes = np.flatnonzero(counts >= FOLDS)
    kept = np.isin(labels, classes)
    if len(classes) < 2:
        return
    tree = DecisionTreeClassifier(max_leaf_nodes=4 * len(classes), class_weight="balanced", random_state=0)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    found = cross_val_predict(tree, x[kept], labels[kept], cv=folds)
    balanced = float(np.mean([np.mean(found[labels[kept] == c] == c) for c in classes]))
    for severity, threshold in SHORTCUT.items():
        if balanced >= threshold:
            yield Finding(
                severity=severity,
                kind="shortcut",
                message=f"Column {name} alone gives the label: a small tree of it is right in {percent(balanced)}.",
                fix="leave it out of data.numbers or data.categories if it is not known when the model is used",
                value=balanced,
                threshold=threshold,
            )
            return
