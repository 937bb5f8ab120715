"""Which evaluation is the best so far, and when a stage has waited long enough for a better one.

What is known lies in the session's record, so in each checkpoint: a run that is killed stops at the same step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxfer.config.experiment import RunConfig
from jaxfer.errors import InputError
from jaxfer.stages import Stage


def judge(record: dict[str, Any], run: RunConfig, stage: Stage, evaluated: Mapping[str, float]) -> bool:
    """Takes note of an evaluation; returns whether the stage ends with it.

    Args:
      record: of the session. `best` is the best evaluation of all; `ranked` the steps and values of the best
        ones, as many as `keep_best`, where that is more than one; `waiting` the stage's best value that counts for
        `patience`, and the evaluations since; `stopped` {stage: step at which it ended early}.
      run: settings.
      stage: under way.
      evaluated: {metric: value} on val, and `step`.

    Raises:
      InputError: the monitored metric is not among them: the data names no groups.
    """
    task, best = stage.spec.task, record["best"]
    if task.monitor not in evaluated:
        has = ", ".join(name for name in evaluated if name != "step")
        raise InputError(f"config.monitor: val has no {task.monitor!r}, it has {has}; name one of these")
    value, maximize = evaluated[task.monitor], task.maximize
    if best is None or _better(value, best[task.monitor], maximize):
        record["best"] = evaluated
    if run.keep_best > 1:
        ranked = [*record.get("ranked", ()), [evaluated["step"], value]]
        ranked.sort(key=lambda entry: (math.isnan(entry[1]), -entry[1] if maximize else entry[1]))
        record["ranked"] = ranked[: run.keep_best]
    if not run.patience:
        return False
    waiting = record.get("waiting")
    if waiting is None or waiting["stage"] != stage.name:
        waiting = {"stage": stage.name, "value": math.nan, "evaluations": 0}
    if _better(value, waiting["value"], maximize, by=run.min_delta):
        record["waiting"] = {**waiting, "value": value, "evaluations": 0}
        return False
    record["waiting"] = {**waiting, "evaluations": waiting["evaluations"] + 1}
    if record["waiting"]["evaluations"] < run.patience or evaluated["step"] == stage.stop:
        return False
    stop(record, stage, evaluated["step"])
    return True


def stop(record: dict[str, Any], stage: Stage, step: int) -> None:
    """Takes note that the stage ends early, with this step of the run."""
    record["stopped"] = {**record.get("stopped", {}), stage.name: step}


def best_steps(record: Mapping[str, Any]) -> list[int]:
    """Steps of the evaluations whose checkpoints are kept, the best first."""
    best = [] if record["best"] is None else [record["best"]["step"]]
    return best + [step for step, _ in record.get("ranked", ()) if step not in best]


def forget(record: dict[str, Any]) -> None:
    """Forgets the best evaluations: those to come are of another task."""
    record["best"] = None
    record.pop("ranked", None)


def _better(value: float, former: float, maximize: bool, by: float = 0.0) -> bool:
    """Whether it is better by more than `by`; than NaN everything is."""
    return math.isnan(former) or (value - former if maximize else former - value) > by


def stopped(record: Mapping[str, Any], stage: Stage) -> bool:
    """Whether the stage ended early."""
    return stage.name in record.get("stopped", {})


def why(record: Mapping[str, Any], stage: Stage) -> str:
    """For the user, of a stage that ended early."""
    waiting, metric = record["waiting"], stage.spec.task.monitor
    return f"{waiting['evaluations']} evaluations without a better {metric} than {waiting['value']:.4g}"
