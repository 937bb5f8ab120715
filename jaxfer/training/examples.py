"""Which examples a stage trains on: those with labels, or all of them where its task reads none.

`config.data.labels` and `labels_per_class` keep the labels of a few. The rest are then `Dataset.pool`, inputs alone.
"""

from __future__ import annotations

import dataclasses

from jaxfer.config.experiment import Experiment, StageConfig
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError
from jaxfer.registry import TASKS
from jaxfer.stages import Stage
from jaxfer.task import Task


def reads_labels(experiment: Experiment, config: StageConfig) -> bool:
    """Whether a stage reads labels of the main examples: for its own task, or for that of a second view of them."""
    views = [stream.task for _, stream in experiment.streams if stream.task and stream.rows == "same"]
    return _task(experiment, config).labelled or any(TASKS.make(view).labelled for view in views)


def with_pool(experiment: Experiment, data: Dataset) -> Dataset:
    """The data with `pool` where a stage reads it, else without.

    Raises:
      InputError: a stage's task learns from labels and the data have none; or few are to keep theirs and no stage reads
        any.
    """
    labelled = [reads_labels(experiment, config) for _, config in experiment.stages]
    if data.splits["train"].unlabelled:
        for _, config in experiment.stages:
            check_target(experiment, config, data)
    if data.pool is not None and not any(labelled):
        option = "labels" if experiment.data.labels else "labels_per_class"
        raise InputError(
            f"data.{option}={getattr(experiment.data, option)} has no effect: task {experiment.task.name!r} reads no "
            "labels; set it to 0"
        )
    return dataclasses.replace(data, pool=None) if all(labelled) else data


def check_target(experiment: Experiment, config: StageConfig, data: Dataset) -> None:
    """`InputError` where the data lack what the stage's task learns."""
    kinds, target = [column.kind for column in data.splits["train"].columns.values()], _task(experiment, config).target
    if target and target not in kinds:
        has = f"data source {experiment.source.name!r} has {' and '.join(kinds)}"
        task = config.task or experiment.task.name
        raise InputError(f"task {task!r} learns {target!r}, {has}; choose another of the two")


def training_split(experiment: Experiment, stage: Stage, data: Dataset) -> Split:
    """What a stage trains on, of the main data or of a second view of them."""
    return data.splits["train"] if data.pool is None or reads_labels(experiment, stage.config) else data.pool


def _task(experiment: Experiment, config: StageConfig) -> Task:
    return TASKS.make(config.task or experiment.task.name)
