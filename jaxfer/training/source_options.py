"""Options of methods that say what a run's source is, found from `config.init` before any weights are loaded.

`source_outputs`: how wide the source's output layer is, for methods that read that layer. `source_columns`: how many
networks side by side the source is, for methods that add one. Both are part of config.json: a resumed or a finished run
knows them without its source.
"""

from __future__ import annotations

import dataclasses

from etils import epath

from jaxfer import files
from jaxfer.config.experiment import Experiment, StageConfig
from jaxfer.errors import InputError
from jaxfer.hub_download import Absent
from jaxfer.pretrained import foreign, heads, starting
from jaxfer.registry import METHODS
from jaxfer.runs.folder import holds_run, read_result, stored_experiment

OUTPUTS, COLUMNS = "source_outputs", "source_columns"


def completed(experiment: Experiment, folder: epath.Path | None) -> Experiment:
    """The experiment with the options filled in; left as they are where the source is not trained yet, when a sweep is
    planned.

    Args:
      experiment: resolved.
      folder: the run's, if any: with what it holds, the source is no longer needed.

    Raises:
      InputError: a method that reads the source's output layer in a run from scratch, from a source without such a
        layer or of another task, or in a later stage; or another value than the source's.
    """
    stages = []
    for index, (name, stage) in enumerate(experiment.stages):
        where, known = f"config.stage.{name}" if experiment.run.stages else "config", METHODS.schema(stage.method)
        if OUTPUTS in known:
            if index:
                raise InputError(
                    f"{where}.method: {stage.method!r} reads the source's head, which the stages before it don't keep; "
                    "make it the first stage"
                )
            stage = _filled(stage, OUTPUTS, _outputs(experiment, stage, folder), "the source's head has", where)
        if COLUMNS in known:
            found = _grown(stages[-1][1], stage) if index else _columns(experiment, stage, folder)
            stage = _filled(stage, COLUMNS, found, "the source has", where)
        stages.append((name, stage))
    return dataclasses.replace(experiment, stages=tuple(stages))


def _filled(stage: StageConfig, option: str, found: int, has: str, where: str) -> StageConfig:
    stated, unset = stage.options[option], METHODS.schema(stage.method)[option][1]
    if found and stated not in (unset, found):
        what = option.removeprefix("source_").removesuffix("s" * (found == 1))
        raise InputError(f"{where}.options.{option}: {has} {found} {what}, found {stated}; leave it out")
    return dataclasses.replace(stage, options={**stage.options, option: found or stated})


def _columns(experiment: Experiment, stage: StageConfig, folder: epath.Path | None) -> int:
    """How many columns the source has; 0 where it is not there yet."""
    init = experiment.run.init
    if init == "scratch" or starting.is_foreign(init):
        return 1
    place = starting.locate(init, epath.Path(".") if folder is None else folder)
    if not _finished(place):
        return _stored(experiment, stage, folder, COLUMNS)
    step, stop = read_result(place)["checkpoint_step"], 0
    for _, before in stored_experiment(place).stages:
        stop += before.steps
        if step <= stop:  # the stage that its result is of
            break
    return _grown(before, stage)


def _grown(before: StageConfig, stage: StageConfig) -> int:
    """How many columns a stage leaves to one after it."""
    return before.options[COLUMNS] + 1 if before.method == stage.method else 1


def _outputs(experiment: Experiment, stage: StageConfig, folder: epath.Path | None) -> int:
    """The width of the source's head; 0 where the source is not there yet."""
    init, need = experiment.run.init, f"method {stage.method!r} reads the head of a source that classifies"
    if init == "scratch":
        raise InputError(f"{need}, config.init is 'scratch'; name a run or a checkpoint there, or use another method")
    if starting.is_foreign(init):
        model = experiment.model
        try:
            checkpoint = foreign.opened(init, model.name, dict(model.options), experiment.init_options)
        except Absent:
            if known := _stored(experiment, stage, folder, OUTPUTS):
                return known
            raise
        task = heads.guessed_task(checkpoint) if checkpoint.outputs else None
        found, outputs = "no head that labels whole inputs" if task is None else f"a {task} head", checkpoint.outputs
    else:
        place = starting.locate(init, epath.Path(".") if folder is None else folder)
        if not _finished(place):
            return _stored(experiment, stage, folder, OUTPUTS)  # where it is needed, starting says what is missing
        task = stored_experiment(place).task.name
        found, outputs = f"a head for the task {task}", len(read_result(place)["classes"])
    if task != "classification":
        raise InputError(f"{need}, config.init={init} has {found}; choose another source or method")
    return outputs


def _finished(place: epath.Path) -> bool:
    return holds_run(place) and (place / "result.json").exists()


def _stored(experiment: Experiment, stage: StageConfig, folder: epath.Path | None, option: str) -> int:
    """What the run in the folder was planned with; 0 where there is none from this source."""
    if folder is None or not (files.opened(folder) / "config.json").exists():
        return 0
    stored = stored_experiment(folder)
    first = stored.stages[0][1]
    same = stored.run.init == experiment.run.init and first.method == stage.method
    return first.options.get(option, 0) if same else 0
