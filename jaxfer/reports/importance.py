"""How much the fields of a sweep matter to its scores, and where settings lie on axes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.reports import numbers, svg
from jaxfer.reports.grids import Axis

FILE = "importance.csv"  # as the Optuna sampler writes it
LEVELS = 6  # values of a field up to which an axis marks each
APART = 0.049  # between two marks of an axis, of its height
LEAST = 8  # runs of which something can be said
TREES, SHUFFLES = 100, 10


class Importance(NamedTuple):
    """How much each field matters, by one measure.

    Attributes:
      of: {field: value}, the largest first.
      fanova: whether these are Optuna's shares of the variance; else what R^2 loses when the field is shuffled.
      r2: of the forest on runs that it was not fitted to; None of Optuna's.
    """

    of: Mapping[str, float]
    fanova: bool
    r2: float | None


def stored(folder: epath.Path) -> Importance | None:
    """What the sweep's own sampler wrote; None where it wrote nothing.

    Raises:
      InputError: another file.
    """
    if not (folder / FILE).exists():
        return None
    try:
        header, *rows = csv.reader(io.StringIO((folder / FILE).read_text()))
        if header != ["field", "importance"]:
            raise ValueError(f"columns {header}")
        found = {field: float(value) for field, value in rows}
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / FILE}: expected fields and their importance ({error}); {files.FIX}") from None
    return Importance(_ordered(found), fanova=True, r2=None)


def permuted(settings: Sequence[Sequence[Any]], scores: Sequence[float], fields: Sequence[str]) -> Importance | None:
    """Permutation importance of a random forest on runs that it was not fitted to (Breiman, 2001).

    A field's value is by how much shuffling it in the held-out runs raises their squared error, over the variance of
    the scores: what R^2 loses. Fields that change together share it.

    Args:
      settings: [runs][fields].
      scores: [runs].
      fields: names.

    Returns:
      None of fewer than eight runs, or of equal scores.
    """
    if len(scores) < LEAST or np.ptp(scores) == 0:
        return None
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    x, y = np.stack([_column(values) for values in zip(*settings, strict=True)], axis=1), np.asarray(scores, np.float64)
    drops, errors = np.zeros(len(fields)), 0.0
    for fitted, held in KFold(min(5, len(y) // 4), shuffle=True, random_state=0).split(x):
        forest = RandomForestRegressor(TREES, random_state=0).fit(x[fitted], y[fitted])
        options = {"scoring": "neg_mean_squared_error", "n_repeats": SHUFFLES, "random_state": 0}
        drops += len(held) * permutation_importance(forest, x[held], y[held], **options).importances_mean
        errors += float(((forest.predict(x[held]) - y[held]) ** 2).sum())
    total = float(((y - y.mean()) ** 2).sum())
    return Importance(
        _ordered(dict(zip(fields, (drops / total).tolist(), strict=True))), fanova=False, r2=1 - errors / total
    )


def _ordered(found: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _column(values: Sequence[Any]) -> np.ndarray:
    """Numbers as they are, else the place of each among the sorted names."""
    if all(map(numbers.known, values)):
        return np.asarray(values, np.float64)
    names = {name: place for place, name in enumerate(sorted(set(map(str, values))))}
    return np.array([names[str(value)] for value in values], np.float64)


def axis(name: str, values: Sequence[Any]) -> Axis:
    """An axis of parallel coordinates: numbers by size, logarithmic where they span a factor of ten, else names."""
    if all(map(numbers.known, values)):
        low, high = min(values), max(values)
        log = low > 0 and high / low >= 10
        scale = svg.Scale(low=low, high=high if high > low else low + 1, begin=0.0, end=1000.0, log=log)
        marks = dict.fromkeys(values) if len(set(values)) <= LEVELS else [low, *scale.ticks(4), high]
        ticks = [(scale(v) / 1000, numbers.plain(v) if v < 1e4 else numbers.compact(v)) for v in marks]
        return Axis(name, [scale(v) / 1000 for v in values], _apart(ticks))
    names = list(dict.fromkeys(map(str, values)))
    place = {value: (i + 0.5) / len(names) for i, value in enumerate(names)}
    return Axis(name, [place[str(v)] for v in values], _apart([(at, svg.shortened(v, 16)) for v, at in place.items()]))


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Those that don't cover one before them."""
    kept: list[tuple[float, str]] = []
    for place, words in ticks:
        if all(abs(place - other) >= APART for other, _ in kept):
            kept.append((place, words))
    return kept
