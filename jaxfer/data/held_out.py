"""Validation examples that are not drawn at random: whole groups, the last in time, or one of k folds.

Like the random draw, each is a function of the data alone: every seed validates on the same examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from jaxfer.data.order import Stream, permutation
from jaxfer.data.split import Split
from jaxfer.errors import InputError, nearest

BY = ("", "group", "time")


class Choice(Protocol):
    """The fields of `DataConfig` that are read here."""

    val_by: str
    val_groups: tuple[str, ...]
    val_fraction: float
    folds: int
    fold: int


def check(config: Choice) -> None:
    """`InputError` for values that are out of range or don't go together."""
    if config.val_by not in BY:
        raise InputError(f"unknown data.val_by {config.val_by!r}{nearest(config.val_by, BY[1:])}")
    if config.folds and (config.folds < 2 or not 0 <= config.fold < config.folds):
        found = f"data.folds={config.folds} and data.fold={config.fold}"
        raise InputError(f"expected data.folds of 2 or more, and data.fold from 0 to data.folds - 1, found {found}")
    if config.fold and not config.folds:
        raise InputError(f"data.fold={config.fold} has no effect without data.folds; set how many there are")
    if config.folds and config.val_by == "time":
        raise InputError("data.folds would train on what comes after validation, found data.val_by='time'; omit one")
    if config.val_groups and (config.folds or config.val_by):
        option = f"data.folds={config.folds}" if config.folds else f"data.val_by={config.val_by!r}"
        raise InputError(f"data.val_groups says which examples are val, and so does {option}; omit one")


def described(config: Choice) -> str:
    """The options that choose, as the provenance of val states them; empty where none does."""
    by = f", data.val_by={config.val_by}" if config.val_by else ""
    if config.folds:
        return f"data.fold={config.fold} of data.folds={config.folds}{by}"
    if config.val_groups:
        return f"data.val_groups={','.join(config.val_groups)}"
    return f"data.val_fraction={config.val_fraction:g}{by}" if by else ""


def chosen(train: Split, strata: np.ndarray, config: Choice) -> np.ndarray:
    """Which examples are val, bool [n]: all but the last two branches keep a group, or equal times, together.

    Args:
      train: what val is taken out of.
      strata: as `draw` takes them, [n] or [n, classes]; folds are stratified by class.
      config: one that `check` passed and `described` describes.

    Raises:
      InputError: the split has no groups or times, or nothing would be left to train on.
    """
    if config.val_groups:
        held = _named(_values(train, "group", "data.val_groups"), config.val_groups)
    elif config.val_by == "time":
        times = _values(train, "time", "data.val_by='time'")
        count = max(1, round(config.val_fraction * len(times)))
        held = times >= np.sort(times)[-count]
    elif config.val_by == "group":
        groups = _values(train, "group", "data.val_by='group'")
        held = _group_fold(groups, config.folds, config.fold) if config.folds else _groups(groups, config.val_fraction)
    else:
        held = _folds(strata, config.folds) == config.fold
    if held.all() or not held.any():
        which = "every example" if held.all() else "no example"
        raise InputError(f"{described(config)} makes {which} val; choose others")
    return held


def overlaps(splits: Mapping[str, Split]) -> tuple[str, ...]:
    """A line for each split with groups that train has too."""
    groups = {name: set(_of(split, "group")) for name, split in splits.items() if "group" in split.columns}
    lines = []
    for name, held in groups.items():
        if name != "train" and (shared := len(held & groups.get("train", set()))):
            fix = "; data.val_by=group keeps groups whole" if name == "val" else ""
            lines.append(f"{shared:,} of {len(held):,} groups of {name} are also in train{fix}")
    return tuple(lines)


def _of(split: Split, name: str) -> np.ndarray:
    return split.columns[name].values[split.rows]


def _values(train: Split, name: str, option: str) -> np.ndarray:
    if name not in train.columns:
        fix = f"name its column in data.{name}, where the source has that option"
        raise InputError(f"{option} needs the {name} of each example, but this data has none; {fix}")
    return _of(train, name)


def _named(groups: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    known = set(groups.tolist())
    for name in names:
        if name not in known:
            raise InputError(f"unknown group {name!r} in data.val_groups{nearest(name, known)}")
    return np.isin(groups, names)


def _groups(groups: np.ndarray, fraction: float) -> np.ndarray:
    """Random groups, until they hold this share of the examples or more."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = permutation(len(sizes), 0, Stream.VAL)
    count = int(np.searchsorted(np.cumsum(sizes[order]), fraction * len(groups))) + 1
    return np.isin(codes, order[:count])


def _group_fold(groups: np.ndarray, folds: int, fold: int) -> np.ndarray:
    """The largest group first, in random order among equals, into the fold with the fewest examples."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < folds:
        raise InputError(f"expected at least data.folds={folds} groups, found {len(sizes)}; lower it")
    order = permutation(len(sizes), 0, Stream.VAL)
    held, place = np.zeros(folds, np.int64), np.empty(len(sizes), np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        place[group] = np.argmin(held)
        held[place[group]] += sizes[group]
    return place[codes] == fold


def _folds(strata: np.ndarray, folds: int) -> np.ndarray:
    """The fold of each example, int64 [n]: those of a class in random order, dealt out in turn."""
    if not np.issubdtype(strata.dtype, np.integer):
        strata = np.zeros(len(strata), np.int32)
    if len(strata) < folds:
        raise InputError(f"expected at least data.folds={folds} training examples, found {len(strata)}; lower it")
    rows = [np.flatnonzero(strata == label) for label in np.unique(strata)]
    labels = np.unique(strata).tolist()
    dealt = [own[permutation(len(own), 0, Stream.VAL, label)] for own, label in zip(rows, labels, strict=True)]
    place = np.empty(len(strata), np.int64)
    place[np.concatenate(dealt)] = np.arange(len(strata)) % folds
    return place
