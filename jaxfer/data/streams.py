"""Data of streams: as `config.data`, but that labels which nothing may learn from are sealed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfer.data.prepare import DataConfig, build, made, relabelled
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError


def second_view(main: Dataset, *, labelled: bool) -> Dataset:
    """The training examples of the main data once more."""
    split = main.splits["train"] if labelled else main.splits["train"].sealed()
    return dataclasses.replace(main, splits={"train": split}, notes=(), provenance={}, sealed=None)


def labelled(config: DataConfig, options: Mapping[str, Any], *, seed: int, with_test: bool) -> Dataset:
    """A stream with a task, prepared as the main data are."""
    return build(config, options, seed=seed, with_test=with_test)


def unlabelled(config: DataConfig, options: Mapping[str, Any], main: Dataset, *, with_test: bool) -> Dataset:
    """A stream without a task: the inputs of its training split, all of them.

    Validation is left out, since nothing may be chosen on labels of a target domain. The test split has its labels only
    where a run opens it, and only where the main task can score it: its classes are those of the main data, which put
    them into their order, and labels of one kind.

    Raises:
      InputError: a draw of validation, which is stratified by the labels.
    """
    if config.val_fraction != DataConfig.val_fraction:
        raise InputError(f"val_fraction={config.val_fraction} draws by labels, which stay sealed here; remove it")
    data = made(config.source, options)
    same = set(data.classes) == set(main.classes)
    splits, test = {"train": data.splits["train"].sealed()}, data.splits.get("test")
    if test is not None and with_test and same and _kinds(main.splits["train"]) <= _kinds(test):
        splits["test"] = relabelled(test, data, main.classes)
    sealed = None if test is None or "test" in splits else test.sealed()
    return dataclasses.replace(data, splits=splits, classes=main.classes if same else data.classes, sealed=sealed)


def _kinds(split: Split) -> set[str]:
    return {column.kind for column in split.columns.values()}
