"""Data of the streams that a config names, built and checked before anything is allocated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.config.experiment import Experiment
from jaxfer.data import streams
from jaxfer.data.loader import Beside, Feed
from jaxfer.data.split import Dataset
from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.parallel.placement import Placement
from jaxfer.stages import Stage
from jaxfer.streams import StreamSpec


def with_streams(experiment: Experiment, data: Dataset) -> Dataset:
    """The main data with those of every stream."""
    seed, with_test, made = experiment.run.seed, experiment.run.test, {}
    for name, stream in experiment.streams:
        try:
            if stream.source is None:
                made[name] = streams.second_view(data, labelled=bool(stream.task))
            elif stream.task:
                options = dict(stream.source.options)
                made[name] = streams.labelled(stream.data, options, seed=seed, with_test=with_test)
            else:
                options = dict(stream.source.options)
                made[name] = streams.unlabelled(stream.data, options, data, with_test=with_test)
        except InputError as error:
            raise InputError(f"config.stream.{name}: {error}") from None
        if not len(made[name].splits["train"]):
            raise InputError(f"config.stream.{name}: expected training examples, found none; check its train split")
    return dataclasses.replace(data, streams=made)


def classes(experiment: Experiment, data: Dataset) -> dict[str, int]:
    """{stream with a task: number of classes of its data}."""
    return {name: len(data.streams[name].classes) for name, stream in experiment.streams if stream.task}


def check(experiment: Experiment, data: Dataset, stages: Sequence[Stage]) -> tuple[str, ...]:
    """Checks every stream against the model and its task.

    Returns:
      Notes: a line for each stream that no stage reads.

    Raises:
      InputError: a stream that the model can't read, or whose data lack what its task learns.
    """
    for stage in stages:
        for spec in stage.spec.streams:
            split, model = data.streams[spec.name].splits["train"], spec.port or stage.spec.port
            try:
                if spec.task is not None:
                    _check_target(spec, dict(experiment.streams)[spec.name].task, data)
                    spec.task.expanded(split.take(np.arange(1)), model.encodings)
                Feed(split=split, encodings=model.encodings).check(_augment(experiment, spec.name))
            except InputError as error:
                raise InputError(f"config.stream.{spec.name}: {error}") from None
    read = {spec.name for stage in stages for spec in stage.spec.streams}
    return tuple(f"config.stream.{name} is read by no stage" for name, _ in experiment.streams if name not in read)


def _check_target(spec: StreamSpec, task: str, data: Dataset) -> None:
    kinds = [column.kind for column in data.streams[spec.name].splits["train"].columns.values()]
    if spec.task.target not in kinds:
        learns = f"task {task!r} learns {spec.task.target!r}"
        raise InputError(f"{learns}, its source has {' and '.join(kinds)}; choose another of the two")


def beside(experiment: Experiment, stage: Stage, data: Dataset, where: Placement) -> dict[str, Beside]:
    """What the loader reads along with a stage's main batches."""
    known = dict(experiment.streams)
    return {
        spec.name: Beside(
            feed=_feed(spec, stage.spec.port, data.streams[spec.name]),
            batch_size=spec.batch_size,
            augment=_augment(experiment, spec.name),
            rows=where.rows(spec.batch_size),
            same=known[spec.name].rows == "same",
        )
        for spec in stage.spec.streams
        if spec.trained
    }


def sizes(experiment: Experiment) -> list[tuple[int, int]]:
    """(batch size, slices) of every stream in every stage that can read it, to be split over devices."""
    return [
        (stream.batch_size, stage.accumulate)
        for _, stage in experiment.stages
        for _, stream in experiment.streams
        if stream.batch_size
    ]


def described(data: Dataset) -> dict[str, Any]:
    """What result.json says of the streams."""
    return {
        name: {
            "classes": list(stream.classes),
            "examples": {split: len(rows) for split, rows in stream.splits.items()},
        }
        for name, stream in data.streams.items()
    }


def fingerprints(data: Dataset) -> Mapping[str, str]:
    """{stream: sha256 of its source's content}."""
    return {name: stream.fingerprint for name, stream in data.streams.items()}


def _feed(spec: StreamSpec, port: Port, data: Dataset) -> Feed:
    split = data.splits["train"]
    if spec.task is None:
        return Feed(split=split, encodings=port.encodings)
    encodings = spec.port.encodings
    return Feed(split=spec.task.expanded(split, encodings), encodings=encodings, targets=spec.task.targets)


def _augment(experiment: Experiment, name: str) -> tuple[str, ...]:
    return dict(experiment.streams)[name].data.augment
