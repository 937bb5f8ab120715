"""How wide the output layer of a run's source is, for methods that read that layer: known before weights are loaded.

The width is an option of the method, `source_outputs`, and so part of config.json: a resumed or a finished run knows it
without its source.
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

OPTION = "source_outputs"


def completed(experiment: Experiment, folder: epath.Path | None) -> Experiment:
    """The experiment with the option filled in; left at 0 where the source is not trained yet, when a sweep is planned.

    Args:
      experiment: resolved.
      folder: the run's, if any: with what it holds, the source is no longer needed.

    Raises:
      InputError: a method that reads the source's output layer in a run from scratch, from a source without such a
        layer or of another task, or in a later stage; or another width than the source's.
    """
    stages = []
    for index, (name, stage) in enumerate(experiment.stages):
        if OPTION in METHODS.schema(stage.method):
            where = f"config.stage.{name}" if experiment.run.stages else "config"
            if index:
                raise InputError(
                    f"{where}.method: {stage.method!r} reads the source's head, which the stages before it don't keep; "
                    "make it the first stage"
                )
            stage = _filled(stage, _outputs(experiment, stage, folder), where)
        stages.append((name, stage))
    return dataclasses.replace(experiment, stages=tuple(stages))


def _filled(stage: StageConfig, outputs: int, where: str) -> StageConfig:
    stated = stage.options[OPTION]
    if outputs and stated not in (0, outputs):
        raise InputError(
            f"{where}.options.{OPTION}: the source's head has {outputs} outputs, found {stated}; leave it out"
        )
    return dataclasses.replace(stage, options={**stage.options, OPTION: outputs or stated})


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
            if known := _stored(experiment, stage, folder):
                return known
            raise
        task = heads.guessed_task(checkpoint) if checkpoint.outputs else None
        found, outputs = "no head that labels whole inputs" if task is None else f"a {task} head", checkpoint.outputs
    else:
        place = starting.locate(init, epath.Path(".") if folder is None else folder)
        if not holds_run(place) or not (place / "result.json").exists():
            return _stored(experiment, stage, folder)  # where it is needed, starting says what is missing
        task = stored_experiment(place).task.name
        found, outputs = f"a head for the task {task}", len(read_result(place)["classes"])
    if task != "classification":
        raise InputError(f"{need}, config.init={init} has {found}; choose another source or method")
    return outputs


def _stored(experiment: Experiment, stage: StageConfig, folder: epath.Path | None) -> int:
    """What the run in the folder was planned with; 0 where there is none from this source."""
    if folder is None or not (files.opened(folder) / "config.json").exists():
        return 0
    stored = stored_experiment(folder)
    first = stored.stages[0][1]
    return (
        first.options.get(OPTION, 0) if stored.run.init == experiment.run.init and first.method == stage.method else 0
    )
