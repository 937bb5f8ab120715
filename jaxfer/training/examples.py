"""Which examples a stage trains on: those with labels, or all of them where its task reads none.

`config.data.labels` and `labels_per_class` keep the labels of a few. The rest are then `Dataset.pool`, inputs alone.
"""

from __future__ import annotations

import dataclasses

from jaxfer.config.experiment import Experiment, StageConfig
from jaxfer.data import prepare
from jaxfer.data.order import Repeated, Sampler
from jaxfer.data.prepare import DataConfig
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
    if experiment.data.sampling and not any(labelled):
        raise InputError(
            f"data.sampling={experiment.data.sampling} has no effect: task {experiment.task.name!r} reads no labels; "
            "remove it"
        )
    return dataclasses.replace(data, pool=None) if all(labelled) else data


def check_target(experiment: Experiment, config: StageConfig, data: Dataset) -> None:
    """`InputError` where the data lack what the stage's task learns, or can't be sampled for it."""
    kinds, target = [column.kind for column in data.splits["train"].columns.values()], _task(experiment, config).target
    if target and target not in kinds:
        has = f"data source {experiment.source.name!r} has {' and '.join(kinds)}"
        task = config.task or experiment.task.name
        raise InputError(f"task {task!r} learns {target!r}, {has}; choose another of the two")
    if reads_labels(experiment, config):
        check_sampling(experiment.data, _task(experiment, config), config.task or experiment.task.name)


def check_sampling(data: DataConfig, task: Task, name: str) -> None:
    """`InputError` where a task makes other examples of those that are to be sampled."""
    field = "sampling" if data.sampling else "repeats"
    if getattr(data, field) and task.expand is not None:
        found = f"data.{field}={getattr(data, field)}"
        raise InputError(f"{found}: task {name!r} makes several examples of one; remove it")


def training_split(experiment: Experiment, stage: Stage, data: Dataset) -> Split:
    """What a stage trains on, of the main data or of a second view of them."""
    return data.splits["train"] if data.pool is None or reads_labels(experiment, stage.config) else data.pool


def sampler(experiment: Experiment, config: StageConfig, split: Split) -> Sampler | Repeated | None:
    """How a stage's epochs are made of its training examples; None where each occurs once."""
    return prepare.sampler(experiment.data, split, by_class=reads_labels(experiment, config))


def sampled(experiment: Experiment, data: Dataset) -> str:
    """For `jaxfer show` and `run`: an epoch and a batch of each stage, in a line; empty without a sampler."""
    made, times = prepare.sampler(experiment.data, data.splits["train"]), experiment.data.repeats
    repeated = f"repeats: an example comes {times} times in a row, an epoch ends after 1/{times} of its examples"
    if isinstance(made, Repeated):
        made = made.sampler
    if made is None:
        return repeated if times else ""
    of, count = experiment.data.sampling_by or "class", len(made.members)
    epoch = f"{count:,} x {made.each:,} = {made.length:,} examples, of {len(data.splits['train']):,}"
    said = [f"sampling: {made.name} by {of}, an epoch is {epoch}"]
    for name, config in experiment.stages:
        size, where = config.batch_size, f"stage {name}: " if experiment.run.stages else ""
        if reads_labels(experiment, config):
            held = f"{size / count:.3g} of each {of}{'' if made.name == 'balanced' else ' on average'}"
            said.append(f"{where}{made.length / size:.4g} steps of {size} examples, {held}")
        else:
            said.append(f"{where}each example once, without labels")
    return "; ".join([*said, repeated] if times else said)


def _task(experiment: Experiment, config: StageConfig) -> Task:
    return TASKS.make(config.task or experiment.task.name)
