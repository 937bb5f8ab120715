"""Other networks that a method reads, as `config.networks` names them: checked without their weights, loaded once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from jaxfer.config.experiment import Experiment
from jaxfer.config.fields import AUTO
from jaxfer.data.encoding import Encoding
from jaxfer.data.loader import Feed
from jaxfer.data.split import Dataset
from jaxfer.errors import InputError, nearest
from jaxfer.hub_download import Absent
from jaxfer.models.port import Port
from jaxfer.network import Network, blank, of_state
from jaxfer.pretrained import foreign, heads, starting
from jaxfer.registry import MODELS
from jaxfer.runs.finished import open_run, planned
from jaxfer.stages import Stage
from jaxfer.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Known:
    """What is known of a network without its weights: its model and method, its task, its classes and its inputs."""

    port: Port
    method: Any
    trained: Task | None
    task: str
    classes: tuple[str, ...]


def equipped(
    stages: Sequence[Stage], experiment: Experiment, data: Dataset, folder: epath.Path | None
) -> tuple[tuple[Stage, ...], tuple[str, ...]]:
    """(the stages with the networks that their methods read, without arrays; what is assumed of these, a line each).

    A network that is not trained yet when a sweep is planned is left out, and one that a finished run no longer needs.

    Args:
      stages: planned.
      experiment: its `networks` say where each is.
      data: which the networks must read, and whose classes must be theirs.
      folder: the run's, if any.

    Raises:
      InputError: a method's network that is not named, a name that no method reads, no such network, one of another
        task or of other classes, or one that does not read these data.
    """
    named, read = dict(experiment.networks), {name for stage in stages for name in stage.spec.method.others}
    for stage in stages:
        for name in stage.spec.method.others:
            if name not in named:
                raise InputError(
                    f"method {stage.config.method!r} reads the network config.networks.{name}, which is not set; name "
                    "a run (run:FOLDER), sibling:NAME or a checkpoint"
                )
    for name in named:
        if name not in read:
            raise InputError(f"config.networks.{name}: no method reads such a network{nearest(name, read)}; remove it")
    if not named:
        return tuple(stages), ()
    known, notes = {name: _known(name, init, folder) for name, init in named.items()}, []
    made = []
    for stage in stages:
        others = []
        for name in stage.spec.method.others:
            if (network := known[name]) is not None:
                where = f"config.networks.{name}={named[name]}"
                notes += _check(where, network, stage, experiment, data)
                reads = _reads(where, name, network.port, stage.spec.port)
                if reads and stage.spec.method.batch is not None:
                    changes = f"{stage.config.named} changes the model's inputs, this network reads others"
                    raise InputError(f"{where}: {changes}; choose one with the model's image size and normalisation")
                others.append((name, blank(network.port, network.method, network.trained, reads)))
        made.append(dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, others=tuple(others))))
    return tuple(made), tuple(dict.fromkeys(notes))


def encodings(stage: Stage) -> dict[str, tuple[Encoding, ...]]:
    """{part of the batch: encodings} of the networks that read other fields than the stage's model."""
    return {network.reads: network.port.encodings for _, network in stage.spec.others if network.reads}


def loaded(stage: Stage, experiment: Experiment, folder: epath.Path) -> dict[str, Any]:
    """{name: (params, model_state, extra)} of the networks that a stage of a run reads: `State.others`."""
    named, planned = dict(experiment.networks), dict(stage.spec.others)
    for name in stage.spec.method.others:
        if name not in planned:  # a finished run was to go on
            raise InputError(f"config.networks.{name}={named[name]}: it is gone; put it back to train on")
    return {name: _arrays(network, named[name], folder) for name, network in stage.spec.others}


def named(experiment: Experiment, folder: epath.Path) -> dict[str, dict[str, str | None]]:
    """{name: where it is and the sha256 of its weights}, for the lineage."""
    return {name: {"init": init, "sha256": starting.source_sha256(init, folder)} for name, init in experiment.networks}


def _known(name: str, init: str, folder: epath.Path | None) -> _Known | None:
    where, finished = f"config.networks.{name}", folder is not None and (folder / "result.json").exists()
    if starting.is_foreign(init):
        try:
            checkpoint = foreign.opened(init, AUTO, {})
        except Absent:
            if finished:  # it has been read for the last time
                return None
            raise
        port = MODELS.make(checkpoint.layout.family, outputs=heads.head_width(checkpoint), **checkpoint.options)
        return _Known(
            port=port, method=None, trained=None, task=heads.guessed_task(checkpoint), classes=checkpoint.labels
        )
    if folder is None and init.startswith("sibling:"):
        return None
    home = epath.Path(".") if folder is None else folder
    if finished and not (starting.locate(init, home) / "config.json").exists():
        return None
    place = starting.source_folder(init, home, where)
    if not (place / "result.json").exists():
        raise InputError(f"{where}={init}: the run at {place} is not finished; finish it first")
    experiment, result, stages = planned(place)
    stage = next(stage for stage in stages if result["checkpoint_step"] <= stage.stop)
    spec = stage.spec
    method = spec.method if spec.method.merge is None else None
    task = stage.config.task or experiment.task.name
    return _Known(port=spec.port, method=method, trained=spec.task, task=task, classes=tuple(result["classes"]))


def _check(where: str, network: _Known, stage: Stage, experiment: Experiment, data: Dataset) -> list[str]:
    """Raises `InputError` for a network of another task or other classes, or of data of another kind."""
    task = stage.config.task or experiment.task.name
    if network.task != task:
        raise InputError(f"{where}: its task is {network.task!r}, here {task!r}; choose another network or task")
    try:
        Feed(split=data.splits["train"], encodings=network.port.encodings).check()
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if network.port.outputs != stage.spec.port.outputs or (network.classes and network.classes != data.classes):
        theirs = _some(network.classes) or f"{network.port.outputs} without names"
        raise InputError(
            f"{where}: its classes are {theirs}, this data's are {_some(data.classes)}; choose another network, or "
            "choose and order the data's with config.data.classes"
        )
    if network.classes or not data.classes:
        return []
    return [f"{where}: its classes have no names; they are taken to be the data's, in their order"]


def _reads(where: str, name: str, port: Port, student: Port) -> str:
    """The part of the batch that the network reads: empty where the model's own fields are what it expects."""
    if all(any(_same(mine, theirs) for theirs in student.encodings) for mine in port.encodings):
        return ""
    if any(encoding.buckets for encoding in port.encodings):
        raise InputError(
            f"{where}: it reads texts by another tokenizer than the model's, or shorter ones; choose a network with "
            "the model's tokenizer and at least its max_length"
        )
    if name in student.inputs:
        raise InputError(f"{where}: the model has an input of this name; the method must call its network otherwise")
    return name


def _same(mine: Encoding, theirs: Encoding) -> bool:
    if not mine.buckets or type(mine) is not type(theirs):
        return mine == theirs
    if mine.max_length < theirs.max_length:
        return False
    return dataclasses.replace(mine, max_length=theirs.max_length, buckets=theirs.buckets) == theirs


def _arrays(network: Network, init: str, folder: epath.Path) -> tuple[Any, Any, Any]:
    if not starting.is_foreign(init):
        finished = open_run(starting.source_folder(init, folder, "config.networks"))
        return of_state(finished.stage, finished.state).arrays
    checkpoint = foreign.opened(init, AUTO, {})
    params, model_state = heads.loaded(checkpoint, network.port)
    return params, model_state, None


def _some(names: Sequence[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
