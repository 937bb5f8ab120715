"""Evaluation: exact metrics on a split over padded batches, on any number of devices; also of a finished run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxfer import config, files
from jaxfer.config.experiment import Experiment
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.data.prepare import build
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError
from jaxfer.parallel.placement import Placement, placement
from jaxfer.runs import seal
from jaxfer.runs.finished import FinishedRun, open_run
from jaxfer.runs.folder import holds_run, stored_config
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.step import StepSpec, as_trained
from jaxfer.task import Mean
from jaxfer.training import adapting, untrained
from jaxfer.training import predictions as tables
from jaxfer.training.programs import eval_arguments, eval_program
from jaxfer.training.progress import Reporter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of one evaluation.

    Attributes:
      metrics: {metric: mean over the examples, or the host function's value}.
      compile_seconds: seconds this evaluation spent compiling; 0 where the program was shared.
      counts: what the task's report is made of; None where it has none.
      collected: what the task collects of each example, where something is gathered of it.
    """

    metrics: dict[str, float]
    compile_seconds: float = 0.0
    counts: dict[str, Any] | None = None
    collected: Any = None


def evaluate_split(
    spec: StepSpec,
    state: State,
    split: Split,
    where: Placement,
    batch_size: int,
    *,
    stop: object = False,
    carried: adapting.Carried | None = None,
) -> Evaluation | None:
    """Runs the whole split once; totals and counts are summed in float64, without those of padding.

    Where the task expands examples, means are over what they become, and `gathered` is over the examples. Where the
    method adapts to what it reads, batches hold the split's examples in its order and no padding; `carried` is what a
    sequence of evaluations hands on.

    Returns None where `stop` became true between two batches: an evaluation must not keep a preempted process.
    """
    read = spec.task.expanded(split, spec.port.encodings)
    size = where.rounded(min(batch_size, len(read)))
    compile_seconds, means, collected, done = 0.0, {}, [], 0
    feed = Feed(split=read, encodings=spec.port.encodings, targets=spec.task.targets)
    adapted = adapting.begun(spec, state, where, examples=len(read), batch_size=size, carried=carried)

    def unmasked() -> Iterator[dict[str, np.ndarray]]:
        held = where.rows(size)
        for batch in eval_batches(feed, batch_size=size, rows=held):
            mask = batch.pop("mask")  # of this process's rows; the outputs are those of all, and padding comes last
            yield batch if adapted is None else {name: rows[mask > 0] for name, rows in batch.items()}

    for batch in where.feed(unmasked(), train=False):
        if stop:
            return None
        if adapted is None:
            program, fresh = eval_program(spec, state, batch, where)
            values = program.call(*eval_arguments(spec, state), batch)
        else:
            program, fresh, values = adapted(batch)
        compile_seconds += program.compile_seconds if fresh else 0.0
        values = jax.device_get(values)
        real = min(size, len(read) - done)
        done += real
        kept = values.pop("collected")
        if spec.task.gathered is not None:
            collected.append(jax.tree.map(lambda x, real=real: x[:real], kept))
        for name, mean in values.items():
            means.setdefault(name, []).append(jax.tree.map(lambda x, real=real: x[:real], mean))
    metrics = {name: Mean.of(batches) for name, batches in means.items()}
    whole = counts = None
    if spec.task.gathered is not None:
        whole = spec.task.merge(jax.tree.map(lambda *parts: _joined(parts), *collected), read)
        whole = whole if spec.task.spell is None else spec.task.spell(whole, spec.port.encodings)
        metrics |= spec.task.gathered(whole, split)
        counts = None if spec.task.counts is None else spec.task.counts(whole, split)
    return Evaluation(metrics=metrics, compile_seconds=compile_seconds, counts=counts, collected=whole)


def evaluate_streams(
    spec: StepSpec, state: State, data: Dataset, split: str, where: Placement, batch_size: int, *, stop: object = False
) -> Evaluation | None:
    """Evaluates a split of the main data, and of each stream that has it: metrics `NAME/metric`.

    A stream with a task is evaluated on that task under its own head; one without, by the main task, if its classes
    are the same. Where the method evaluates averages or adapts, the parameters themselves are evaluated beside that, as
    if they were such a stream: `raw/accuracy`. None as of `evaluate_split`.
    """
    own = {stream.name: spec.of_stream(stream.name) for stream in spec.streams if stream.task is not None}
    main = dataclasses.replace(spec, streams=())
    whole = evaluate_split(main, state, data.splits[split], where, batch_size, stop=stop)
    parts = {name: (own.get(name, main), data.streams[name].splits.get(split)) for name in data.streams}
    if spec.method.evaluated is not None or spec.method.adapt is not None:
        parts["raw"] = dataclasses.replace(main, method=as_trained(spec.method)), data.splits[split]
    for name, (measured, examples) in parts.items():
        if whole is None or examples is None:
            continue
        part = evaluate_split(measured, state, examples, where, batch_size, stop=stop)
        if part is None:
            return None
        metrics = whole.metrics | {f"{name}/{metric}": value for metric, value in part.metrics.items()}
        seconds = whole.compile_seconds + part.compile_seconds
        whole = dataclasses.replace(whole, metrics=metrics, compile_seconds=seconds)
    return whole


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Batches one after the other; those of shorter buckets are padded with -1 along the second axis."""
    longest = max(part.shape[1] for part in parts) if parts[0].ndim > 1 else 0
    padded = (
        part
        if part.ndim == 1
        else np.pad(part, [(0, 0), (0, longest - part.shape[1])] + [(0, 0)] * (part.ndim - 2), constant_values=-1)
        for part in parts
    )
    return np.concatenate(list(padded))


def evaluate(
    run: str | epath.Path,
    *,
    split: str = "val",
    checkpoint: str = "result",
    overrides: Mapping[str, Any] | None = None,
    predictions: str | epath.Path | None = None,
    quiet: bool = False,
) -> dict[str, float]:
    """Evaluates a finished run, on its own data or on another set of the same classes; or a checkpoint as it is.

    Args:
      run: its folder; or a checkpoint with a head, as `config.init` names one, on the data that `overrides` name. Its
        classes are matched to the data's by name.
      split: `val`, `test` or `train`.
      checkpoint: of a run: `result` (what result.json describes), `last`, `best`, or the step of one that is kept.
      overrides: {"data.x": value}, as on the command line.
      predictions: of a classification, the .csv to write with a row for each example, the most confident mistakes first
        (`predictions.table`); an older file is replaced.
      quiet: leave out the notes on what was assumed of a checkpoint.

    Returns:
      {metric: value}.

    Raises:
      InputError: an unfinished run, a split that the data lacks, data of other classes, the test split of a
        comparison's run before its selection is made, or predictions that can't be written.
    """
    overrides = overrides or {}
    place = None if predictions is None else tables.destination(predictions)
    if not names_run(run, checkpoint, overrides):
        return _evaluate_untrained(str(run), split, overrides, place, quiet)
    finished, experiment, data = reopened(run, split, checkpoint, overrides)
    check_classes(finished, data)
    state = finished.state.replace(hparams={}, key=None, opt_state=())
    return _on_devices(experiment, finished.stage, state, data, split, place)


def check_classes(run: FinishedRun, data: Dataset) -> None:
    """`InputError` where the data's classes are not the run's, in its order."""
    if data.classes != run.classes:
        raise InputError(
            f"the run's classes are {', '.join(run.classes)}; this data's are {', '.join(data.classes)}; "
            "choose and order them with --config.data.classes"
        )


def names_run(run: str | epath.Path, checkpoint: str, overrides: Mapping[str, Any]) -> bool:
    """Whether this is a run's folder, and not a checkpoint that `overrides` name data for.

    Raises:
      InputError: neither, or one of a run's checkpoints asked of a checkpoint.
    """
    config.check_overrides(overrides)
    folder = files.opened(run)
    if holds_run(folder):
        return True
    if "data.source" not in overrides:
        data = "the data to evaluate it on (--config.data.source=NAME and its options)"
        raise InputError(f"no run at {folder}: expected a folder that `jaxfer run` wrote, or a checkpoint and {data}")
    if checkpoint != "result":
        raise InputError(f"--checkpoint={checkpoint} is for runs, but {run} is a checkpoint itself; omit it")
    return False


def reopened(
    run: str | epath.Path, split: str, checkpoint: str, overrides: Mapping[str, Any]
) -> tuple[FinishedRun, Experiment, Dataset]:
    """(a finished run, its config under these overrides, the data that this config names), as of `evaluate`.

    Raises:
      InputError: an unfinished run, an override of what was trained, a split that the data lacks, or a sealed one.
    """
    folder = files.opened(run)
    if split == "test":
        seal.check(folder)
    finished = open_run(run, checkpoint)
    for name in overrides:
        if not name.startswith(("data.", "parallel.")) and name != "eval_batch_size":
            raise InputError(
                f"config.{name} is part of the trained run; what may be set is data.*, parallel.*, eval_batch_size"
            )
    stored = stored_config(finished.folder)
    experiment = config.resolve(config.override(stored, overrides))
    seed, source = experiment.run.seed, dict(experiment.source.options)
    data = build(experiment.data, source, seed=seed, with_test=split == "test")
    if split not in data.splits:
        raise InputError(f"split {split!r} is not in this data; it has {', '.join(data.splits)}")
    return finished, experiment, data


def _evaluate_untrained(
    init: str, split: str, overrides: Mapping[str, Any], place: epath.Path | None, quiet: bool
) -> dict[str, float]:
    loaded = untrained.opened(init, overrides, split=split)
    reporter = Reporter(quiet=quiet)
    for note in loaded.notes:
        reporter.say(f"note: {note}")
    return _on_devices(loaded.experiment, loaded.stage, loaded.state, loaded.data, split, place)


def _on_devices(
    experiment: Experiment, stage: Stage, state: State, data: Dataset, name: str, place: epath.Path | None
) -> dict[str, float]:
    """The metrics of a split; the table of predictions, where it has a place, is written."""
    if place is not None:
        tables.check_task(stage.config.task or experiment.task.name)
    where, spec, split = placement(experiment.parallel), stage.spec, data.splits[name]
    found = evaluate_split(spec, where.place(spec, state), split, where, experiment.run.eval_batch_size)
    if place is not None:
        tables.write(place, found.collected, split, data.classes)
    return found.metrics
