"""Stages whose output layer is fitted at once, in place of steps, to the features of all training examples."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer import rules
from jaxfer.config.experiment import Experiment
from jaxfer.data.order import batch_indices
from jaxfer.data.split import Split
from jaxfer.errors import InputError, NonFiniteLoss
from jaxfer.linear import Problem, Solution, lbfgs
from jaxfer.models.port import FEATURES
from jaxfer.parallel.placement import Placement
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.task import Mean, Task
from jaxfer.training.cut import at_output
from jaxfer.training.progress import Reporter, short


def check(experiment: Experiment, stages: Sequence[Stage], where: Placement) -> None:
    """`InputError` for the first stage that is to be fitted at once and can't be."""
    fits = [stage for stage in stages if stage.spec.method.fit is not None]
    for stage in fits:
        of, fit = f"config.stage.{stage.name}" if experiment.run.stages else "config", stage.spec.method.fit
        option, tasks = f"{of}.options.{fit.solver.option}", fit.solver.tasks
        task = stage.config.task or experiment.task.name
        if task not in tasks:
            found = f"config.task is {task!r}"
            raise InputError(f"{option}: {fit.name} fits the task {' or '.join(tasks)}, {found}; omit it")
        if task == experiment.task.name and experiment.task.options:
            name, found = experiment.task.options[0]
            raise InputError(f"config.task.{name}: {fit.name} fits the plain loss, found {found!r}; omit it")
        if stage.config.adds:
            found = ", ".join(stage.config.adds)
            raise InputError(f"{of}.adds: add-ons change steps, and {fit.name} takes none; remove {found}")
        if experiment.data.sampling:
            found = f"found {experiment.data.sampling!r}"
            raise InputError(f"config.data.sampling: {fit.name} fits all training examples alike, {found}; remove it")
        if stage.config.accumulate > 1:
            found = f"found {stage.config.accumulate} slices"
            raise InputError(f"{of}.accumulate: {fit.name} takes no slices of a batch, {found}; set it to 1")
        if set(stage.spec.trainable) != set(_layer(stage)):
            wanted, found = (" and ".join(sorted(paths)) for paths in (_layer(stage), stage.spec.trainable))
            raise InputError(f"{of}: {fit.name} fits {wanted}, found {found} trainable; correct config.freeze")
        if why := at_output(stage, where, experiment):
            raise InputError(f"{option}: {fit.name} needs features that stay the same, found: {why}; omit it")
    last = stages[-1].stop
    if fits and experiment.run.profile and experiment.run.profile[1] > last:
        found = f"found {experiment.run.profile!r}"
        raise InputError(f"config.profile: expected steps in 1..{last}, as a fit counts as one, {found}; correct it")


def fitted(
    stage: Stage, state: State, train: Split, val: Split, *, seed: int, stop: object, reporter: Reporter
) -> tuple[State, dict[str, float], dict[str, Any]]:
    """Fits all that the method tries and keeps the solution that is best on val; of equals, the one tried first.

    Args:
      stage: its method has a `fit`.
      state: its first.
      train: with the column `features`, and labels.
      val: likewise.
      seed: the run's.
      stop: true once the process is asked to stop; looked at between two solutions, and two calls of many steps.
      reporter: tells the path in a line, and what was not finished.

    Returns:
      (the state after the fit, its metrics on train, the path for result.json).

    Raises:
      Preempted, Interrupted: the process is asked to stop; nothing of the fit is kept.
      NonFiniteLoss: the training examples' features or targets are not finite, or no solution's loss is.
    """
    fit, task, x = stage.spec.method.fit, stage.spec.task, _features(train)
    if not (np.isfinite(x).all() and np.isfinite(train.labels).all()):
        raise NonFiniteLoss(f"non-finite features or targets, stage {stage.name!r}: correct the data or config.init")
    problem = _problem(stage, x, train, seed)
    val_inputs, best, path = problem.inputs(_features(val)), None, []
    for solution in fit(problem):
        if stop:
            raise stop.stopped("the fit starts again")
        if solution is None:
            continue
        scores = _scores(task, val_inputs, solution, val)
        path.append(_row(task, solution, scores))
        sign = 1 if task.maximize else -1
        if math.isfinite(scores["loss"]) and (best is None or sign * scores[task.monitor] > sign * best[1]):
            best = solution, scores[task.monitor]
    if best is None:
        raise NonFiniteLoss(f"non-finite loss on val of all {len(path)} {fit.solver.many}, stage {stage.name!r}")
    chosen = best[0]
    _tell(stage, path, chosen, reporter)
    leaves = rules.flatten(state.params)
    found = dict(zip(_layer(stage), problem.inputs.folded(chosen), strict=True))
    placed = {p: jax.device_put(np.asarray(v, leaves[p].dtype), leaves[p].sharding) for p, v in found.items()}
    state = state.replace(step=state.step + 1, params=rules.unflatten({**leaves, **placed}))
    tried = {name: float(value) for name, value in chosen.tried.items()}
    metrics = _scores(task, problem.x, chosen, train) | {"grad_norm": chosen.gradient_norm, **tried}
    return state, metrics, {"fit": fit.name, **chosen.tried, "path": path}


def table(path: Sequence[Mapping[str, Any]]) -> str:
    """The path as CSV: a row for each solution."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(path[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(path)
    return text.getvalue()


def _problem(stage: Stage, x: np.ndarray, train: Split, seed: int) -> Problem:
    task, port, size = stage.spec.task, stage.spec.port, stage.config.batch_size
    inputs = stage.spec.method.fit.solver.inputs(x)

    def batches(first: int, number: int) -> np.ndarray:
        steps = range(stage.start + first, stage.start + first + number)
        return np.stack([batch_indices(seed, step, size=len(train), batch_size=size) for step in steps])

    return Problem(
        x=inputs(x),
        inputs=inputs,
        labels=train.labels,
        outputs=port.outputs,
        loss=_loss(task),
        hparams={name: stage.hparams[name] for name in task.hparams or ()},
        parts=port.feature_parts,
        batches=batches,
        batch_size=size,
        key=jax.random.fold_in(jax.random.key(seed), stage.start),
    )


@functools.lru_cache(maxsize=16)
def _loss(task: Task) -> Any:
    return lambda outputs, labels, hparams: task.loss(outputs, {"label": labels}, hparams).value()


def _layer(stage: Stage) -> tuple[str, str]:
    """Paths of the output layer's kernel [width, outputs] and bias [outputs]."""
    return f"{stage.spec.port.head}/kernel", f"{stage.spec.port.head}/bias"


def _features(split: Split) -> np.ndarray:
    return np.asarray(split.columns[FEATURES].values[split.rows], np.float32)


def _scores(task: Task, x: np.ndarray, solution: Solution, split: Split) -> dict[str, float]:
    """{metric: value on the split} of inputs as the solver reads them."""
    outputs = solution.outputs(x).astype(np.float32)
    means = jax.device_get(_scored(task, outputs, {"label": split.labels}))
    scores = {name: Mean.of([mean]) for name, mean in means.items()}
    if task.monitor not in scores and math.isfinite(scores["loss"]):  # costs more, and is not asked for else
        scores[task.monitor] = task.gathered(outputs, split)[task.monitor]
    return scores


@functools.partial(jax.jit, static_argnums=0)
def _scored(task: Task, outputs: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, Mean]:
    return task.scores(outputs, batch)


def _row(task: Task, solution: Solution, scores: Mapping[str, float]) -> dict[str, Any]:
    """A solution's row of the path; None stands for a score that is not finite."""
    names = dict.fromkeys(("loss", task.monitor))
    values = {name: scores.get(name, math.nan) for name in names}
    row = {**solution.tried, **{name: value if math.isfinite(value) else None for name, value in values.items()}}
    if solution.iterations:
        row |= {"iterations": solution.iterations, "gradient_norm": solution.gradient_norm}
    return row


def _tell(stage: Stage, path: Sequence[Mapping[str, Any]], chosen: Solution, reporter: Reporter) -> None:
    """The path in a line, and warnings of solutions that are not finite and of penalties that L-BFGS did not finish."""
    fit, metric, (along, *rest) = stage.spec.method.fit, stage.spec.task.monitor, chosen.tried
    found = next(row for row in path if chosen.tried.items() <= row.items())
    line = [row for row in path if all(row[name] == chosen.tried[name] for name in rest)]
    ends = "; ".join(f"{_said(end[along])}: {_said(end[metric])}" for end in (line[0], line[-1]))
    words = ", ".join(f"{name} {_said(value)}" for name, value in chosen.tried.items())
    at_end = len(line) > 1 and found in (line[0], line[-1])
    advice = ": widen options.penalties" if "penalties" in fit.settings else ""
    reporter.say(
        f"stage {stage.name!r}: {fit.told(stage.spec.port.feature_parts)}, best on val {words} "
        f"({metric} {_said(found[metric])}; {ends})" + (f", an end of the path{advice}" if at_end else "")
    )
    if lost := sum(row["loss"] is None for row in path):
        reporter.warn(
            f"stage {stage.name!r}: the loss on val is not finite for {lost} of {len(path)} {fit.solver.many}"
        )
    if late := [point for point in path if point.get("gradient_norm", 0.0) > lbfgs.TOLERANCE]:
        worst = max(late, key=lambda point: point["gradient_norm"])
        reporter.warn(
            f"stage {stage.name!r}: L-BFGS stopped after {lbfgs.ITERATIONS} iterations at {len(late)} of {len(path)} "
            f"penalties, with a gradient norm of up to {short(worst['gradient_norm'])} (penalty "
            f"{short(worst['penalty'])}); expected {lbfgs.TOLERANCE:g}"
        )


def _said(value: float | bool | None) -> str:
    """A number, `yes`, `no` or `nan` of a row."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "nan" if value is None else short(value)
