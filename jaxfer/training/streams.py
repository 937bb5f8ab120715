"""Data of the streams that a config names, built and checked before anything is allocated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer.config.experiment import Experiment
from jaxfer.data import prepare, streams
from jaxfer.data.loader import Beside, Feed
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.parallel.placement import Placement
from jaxfer.ports import port_shapes
from jaxfer.registry import TASKS
from jaxfer.stages import Stage, example_batch
from jaxfer.streams import StreamSpec, check_slices
from jaxfer.task import Mean, Task, labels
from jaxfer.training import examples
from jaxfer.training.examples import training_split


def with_streams(experiment: Experiment, data: Dataset) -> Dataset:
    """The main data with those of every stream."""
    seed, with_test, made = experiment.run.seed, experiment.run.test, {}
    for name, stream in experiment.streams:
        try:
            if stream.source is None:
                made[name] = streams.second_view(data, labelled=bool(stream.task) or stream.rows == "pairs")
            elif stream.task:
                options = dict(stream.source.options)
                made[name] = streams.labelled(stream.data, options, seed=seed, with_test=with_test)
            else:
                options = dict(stream.source.options)
                made[name] = streams.unlabelled(stream.data, options, data, with_test=with_test)
        except InputError as error:
            raise InputError(f"config.stream.{name}: {error}") from None
        if stream.source is not None and made[name].pool is not None and not TASKS.make(stream.task).labelled:
            why = f"task {stream.task!r} reads no labels; set labels and labels_per_class to 0"
            raise InputError(f"config.stream.{name}: a number of labels has no effect: {why}")
        if not len(made[name].splits["train"]):
            raise InputError(f"config.stream.{name}: expected training examples, found none; check its train split")
    return dataclasses.replace(data, streams=made)


def classes(experiment: Experiment, data: Dataset) -> dict[str, int]:
    """{stream with a task: number of classes of its data}."""
    return {name: len(data.streams[name].classes) for name, stream in experiment.streams if stream.task}


def check(experiment: Experiment, data: Dataset, stages: Sequence[Stage], where: Placement) -> tuple[str, ...]:
    """Checks every stream against the model, its task and the devices.

    Returns:
      Notes: a line for each stream that no stage reads.

    Raises:
      InputError: a stream that the model can't read, whose data lack what its task learns, or whose loss can't be
        computed in slices.
    """
    for stage in stages:
        specs = {spec.name: spec for spec in stage.spec.streams}
        for name, stream in experiment.streams:  # what no stage reads may still be evaluated
            spec = specs.get(name)
            model = spec.port if spec is not None and spec.port is not None else stage.spec.port
            try:
                if name in example_batch(stage.spec.port, stage.spec.task, 1):
                    raise InputError("batches have a field of this name; rename the stream")
                if spec is not None and spec.task is not None:
                    _check_target(spec, stream.task, data)
                    examples.check_sampling(stream.data, spec.task, stream.task)
                    spec.task.expanded(data.streams[name].splits["train"].take(np.arange(1)), model.encodings)
                if spec is not None and stream.source is None:
                    _check_same(stage.spec.task, spec.task)
                if spec is not None and spec.pairs:
                    check_pairs(stage.spec.task, training_split(experiment, stage, data))
                for split, rows in data.streams[name].splits.items():
                    augment = stream.data.augment if split == "train" else ()
                    Feed(split=rows, encodings=model.encodings).check(augment)
            except InputError as error:
                raise InputError(f"config.stream.{name}: {error}") from None
        if stage.spec.accumulate > 1 or where.mode == "pmap":
            _check_slices(stage)
    read = {spec.name for stage in stages for spec in stage.spec.streams}
    return tuple(f"config.stream.{name} is read by no stage" for name, _ in experiment.streams if name not in read)


def _check_target(spec: StreamSpec, task: str, data: Dataset) -> None:
    kinds = [column.kind for column in data.streams[spec.name].splits["train"].columns.values()]
    if spec.task.target not in kinds:
        learns = f"task {task!r} learns {spec.task.target!r}"
        raise InputError(f"{learns}, its source has {' and '.join(kinds)}; choose another of the two")


def _check_same(main: Task, own: Task | None) -> None:
    if main.expand is not (own.expand if own is not None else None):
        raise InputError(
            "it has rows of the main data, but a task makes several examples of one, and not the same ones for both; "
            "give the stream a source"
        )


def check_pairs(task: Task, split: Split) -> None:
    """`InputError` where partners can't be drawn from these examples by the classes that the task learns."""
    kinds = {column.kind for column in split.columns.values()}
    if task.target != "class" or "class" not in kinds or len(np.unique(split.labels)) < 2:
        raise InputError(
            "rows='pairs' draws partners of the same and of another class, and the stage does not learn two classes or "
            "more; check config.task and config.data, or use another method"
        )


def _check_slices(stage: Stage) -> None:
    """`check_slices` from shapes alone, so that nothing has been compiled or written yet."""
    spec, batch = stage.spec, stage.example()
    trained = [stream for stream in spec.streams if stream.trained and stream.task is not None]

    def loss(port: Port, task: Task, fields: Mapping[str, Any]) -> Mean:
        def value(params: Any, model_state: Any, fields: Mapping[str, Any]) -> Mean:
            return task.loss(port.apply(params, model_state, fields)[0], fields, task.hparams or {})

        return jax.eval_shape(value, *port_shapes(spec.port), fields)

    for stream in trained:
        if stream.task.whole_batch:
            raise InputError(
                f"config.stream.{stream.name}: the loss of its task is of the batch as a whole; set "
                "config.accumulate=1 and parallel.mode=jit"
            )
    if trained:
        others = {f"{stream.name}/loss": loss(stream.port, stream.task, batch[stream.name]) for stream in trained}
        check_slices(loss(spec.port, spec.task, batch), others)


def beside(experiment: Experiment, stage: Stage, data: Dataset, where: Placement) -> dict[str, Beside]:
    """What the loader reads along with a stage's main batches."""
    known = dict(experiment.streams)
    return {
        spec.name: Beside(
            feed=_feed(experiment, stage, spec, data.streams[spec.name]),
            batch_size=spec.batch_size,
            augment=_augment(experiment, spec.name),
            rows=where.rows(spec.batch_size),
            same=known[spec.name].rows == "same",
            pairs=spec.pairs,
            follows=spec.follows,
        )
        for spec in stage.spec.streams
        if spec.trained
    }


def sizes(experiment: Experiment) -> list[tuple[str, int, int]]:
    """(what it is called, batch size, slices) of every stream in every stage, to be split over devices."""
    return [
        (f"config.stream.{name}.batch_size", stream.batch_size, stage.accumulate)
        for _, stage in experiment.stages
        for name, stream in experiment.streams
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


def _feed(experiment: Experiment, stage: Stage, spec: StreamSpec, data: Dataset) -> Feed:
    own = dict(experiment.streams)[spec.name].source is not None
    split = data.splits["train"] if own else training_split(experiment, stage, data)
    if spec.task is None:
        return Feed(split=split, encodings=stage.spec.port.encodings, targets=labels if spec.pairs else None)
    encodings, sampler = spec.port.encodings, prepare.sampler(dict(experiment.streams)[spec.name].data, split)
    split = spec.task.expanded(split, encodings)
    return Feed(split=split, encodings=encodings, targets=spec.task.targets, sampler=sampler)


def _augment(experiment: Experiment, name: str) -> tuple[str, ...]:
    return dict(experiment.streams)[name].data.augment
