"""Reopening a finished run's folder: to evaluate it, to start another run from it, to export its result."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxfer import files, rules
from jaxfer.config.experiment import Experiment
from jaxfer.errors import InputError
from jaxfer.parallel import cluster
from jaxfer.ports import make_port
from jaxfer.runs import tokenizer
from jaxfer.runs.checkpoint import Checkpoints
from jaxfer.runs.folder import holds_run, read_result, stored_experiment
from jaxfer.stages import Stage, make_stages
from jaxfer.state import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run with its parameters.

    Attributes:
      folder: where it lies.
      experiment: its config.
      result: its result.json.
      classes: names of its labels, in order.
      stage: the stage its parameters are of; a model of texts has the tokenizer that lies in the folder.
      state: that stage's State.
    """

    folder: epath.Path
    experiment: Experiment
    result: dict[str, Any]
    classes: tuple[str, ...]
    stage: Stage
    state: State


def open_run(folder: str | epath.Path, checkpoint: str = "result") -> FinishedRun:
    """Opens a finished run.

    Args:
      folder: its work directory.
      checkpoint: `result` (what result.json describes), `last`, `best`, or the step of one that is kept (`best_steps`).

    Raises:
      InputError: no run there, an unfinished one, or checkpoints that can't be read.
    """
    folder = files.opened(folder)
    if not holds_run(folder):
        raise InputError(f"no run at {folder}: expected a folder that `jaxfer run` wrote")
    if not (folder / "result.json").exists():
        raise InputError(f"the run at {folder} is not finished; run the same `jaxfer run` command again to finish it")
    experiment, result, stages = planned(folder)
    classes = tuple(result["classes"])
    known = ("result", "last", "best")
    if checkpoint not in known and not checkpoint.isdecimal():
        raise InputError(f"unknown checkpoint {checkpoint!r}; known: {', '.join(known)}, or a step")
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def blank(record):
        shapes = stages[record["stage"]].blank(experiment.run.seed)
        return placed(shapes, jax.tree.map(lambda _: one_device, shapes))

    last = result.get("stopped", {}).get(stages[-1].name, result["steps"])
    try:
        steps = {"result": result["checkpoint_step"], "last": last, "best": checkpoints.best}
        step = steps[checkpoint] if checkpoint in known else int(checkpoint)
        state, record = checkpoints.restore(blank, step=step)
    finally:
        checkpoints.close()
    return FinishedRun(
        folder=folder, experiment=experiment, result=result, classes=classes, stage=stages[record["stage"]], state=state
    )


def steps_taken(folder: epath.Path, result: Mapping[str, Any]) -> int:
    """Steps of a finished run: those of its plan, less what stages that stopped early left."""
    stopped, begin, left = result.get("stopped", {}), 0, 0
    for name, stage in stored_experiment(folder).stages if stopped else ():
        begin += stage.steps
        left += begin - stopped.get(name, begin)
    return result["steps"] - left


def planned(folder: epath.Path) -> tuple[Experiment, dict[str, Any], tuple[Stage, ...]]:
    """(config, result.json, stages) of a finished run; none of its parameters."""
    experiment, result = stored_experiment(folder), read_result(folder)
    classes = len(result["classes"])
    port, task = make_port(experiment, classes)
    streams = {name: len(stream["classes"]) for name, stream in result.get("streams", {}).items()}
    return experiment, result, make_stages(experiment, tokenizer.at_home(port, folder), task, classes, streams)


def placed(blank: State, shardings: Any) -> State:
    """Shapes with a sharding each: where a restored leaf goes."""
    return jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), blank, shardings)


def fingerprint(*trees: Any) -> str:
    """sha256 over the names, types, shapes and bytes of every leaf: the name of a set of weights."""
    digest = hashlib.sha256()
    for tree in trees:
        for path, leaf in sorted(rules.flatten(tree).items()):
            array = cluster.fetched(leaf)
            digest.update(f"{path} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
