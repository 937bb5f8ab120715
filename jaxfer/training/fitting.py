"""Stages whose output layer is fitted at once, in place of steps, to the features of all training examples."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer import linear, rules
from jaxfer.config.experiment import Experiment
from jaxfer.data.split import Split
from jaxfer.errors import InputError, NonFiniteLoss
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
        task = stage.config.task or experiment.task.name
        if task not in fit.tasks:
            raise InputError(
                f"{of}.options.fit: {fit.name} fits the task {' or '.join(fit.tasks)}, config.task is {task!r}; omit it"
            )
        if stage.config.adds:
            found = ", ".join(stage.config.adds)
            raise InputError(f"{of}.adds: add-ons change steps, and {fit.name} takes none; remove {found}")
        if stage.config.accumulate > 1:
            found = f"found {stage.config.accumulate} slices"
            raise InputError(f"{of}.accumulate: {fit.name} reads all examples at once, {found}; set it to 1")
        if set(stage.spec.trainable) != set(_layer(stage)):
            wanted, found = (" and ".join(sorted(paths)) for paths in (_layer(stage), stage.spec.trainable))
            raise InputError(f"{of}: {fit.name} fits {wanted}, found {found} trainable; correct config.freeze")
        if why := at_output(stage, where, experiment):
            raise InputError(f"{of}.options.fit: {fit.name} needs features that stay the same, found: {why}; omit it")
    last = stages[-1].stop
    if fits and experiment.run.profile and experiment.run.profile[1] > last:
        found = f"found {experiment.run.profile!r}"
        raise InputError(f"config.profile: expected steps in 1..{last}, as a fit counts as one, {found}; correct it")


def fitted(
    stage: Stage, state: State, train: Split, val: Split, *, stop: object, reporter: Reporter
) -> tuple[State, dict[str, float], dict[str, Any]]:
    """Fits the whole path of penalties and keeps the solution that is best on val; of equals, the stronger penalty.

    Args:
      stage: its method has a `fit`.
      state: its first.
      train: with the column `features`, and labels.
      val: likewise.
      stop: true once the process is asked to stop; looked at between two penalties.
      reporter: tells the path in a line, and which penalties L-BFGS did not finish.

    Returns:
      (the state after the fit, its metrics on train, the path for result.json).

    Raises:
      Preempted, Interrupted: the process is asked to stop; nothing of the fit is kept.
      NonFiniteLoss: the training examples' features or targets are not finite.
    """
    fit, task = stage.spec.method.fit, stage.spec.task
    x, targets = _features(train), _targets(stage, train)
    if not (np.isfinite(x).all() and np.isfinite(targets).all()):
        raise NonFiniteLoss(f"non-finite features or targets, stage {stage.name!r}: correct the data or config.init")
    axes = linear.Axes.of(x)
    inputs, val_inputs, best, path = axes(x), axes(_features(val)), None, []
    for solution in fit(inputs, axes.spectrum, targets):
        if stop:
            raise stop.stopped("the fit starts again")
        scores = _scores(task, val_inputs, solution, val)
        path.append(
            {"penalty": solution.penalty, **{name: scores[name] for name in dict.fromkeys(("loss", task.monitor))}}
        )
        if solution.iterations:
            path[-1] |= {"iterations": solution.iterations, "gradient_norm": solution.gradient_norm}
        sign = 1 if task.maximize else -1
        if best is None or sign * scores[task.monitor] > sign * best[1]:
            best = solution, scores[task.monitor]
    chosen = best[0]
    _tell(stage, path, best, reporter)
    leaves = rules.flatten(state.params)
    found = dict(zip(_layer(stage), axes.folded(chosen), strict=True))
    placed = {p: jax.device_put(np.asarray(v, leaves[p].dtype), leaves[p].sharding) for p, v in found.items()}
    state = state.replace(step=state.step + 1, params=rules.unflatten({**leaves, **placed}))
    metrics = _scores(task, inputs, chosen, train) | {"grad_norm": chosen.gradient_norm, "penalty": chosen.penalty}
    return state, metrics, {"fit": fit.name, "penalty": chosen.penalty, "path": path}


def _layer(stage: Stage) -> tuple[str, str]:
    """Paths of the output layer's kernel [width, outputs] and bias [outputs]."""
    return f"{stage.spec.port.head}/kernel", f"{stage.spec.port.head}/bias"


def _features(split: Split) -> np.ndarray:
    return np.asarray(split.columns[FEATURES].values[split.rows], np.float32)


def _targets(stage: Stage, split: Split) -> np.ndarray:
    """float64 [n, outputs]: the target itself, or each class's probability, smoothed as the task says."""
    labels = split.labels
    if stage.spec.task.target == "value":
        return labels[:, None].astype(np.float64)
    smoothing, classes = stage.hparams["label_smoothing"], stage.spec.port.outputs
    return (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes


def _scores(task: Task, x: np.ndarray, solution: linear.Solution, split: Split) -> dict[str, float]:
    """{metric: mean over the split} of inputs along the axes."""
    outputs = (x @ solution.weights + solution.bias).astype(np.float32)
    means = jax.device_get(_scored(task, outputs, {"label": split.labels}))
    return {name: Mean.of([mean]) for name, mean in means.items()}


@functools.partial(jax.jit, static_argnums=0)
def _scored(task: Task, outputs: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, Mean]:
    return task.scores(outputs, batch)


def _tell(
    stage: Stage, path: Sequence[Mapping[str, Any]], best: tuple[linear.Solution, float], reporter: Reporter
) -> None:
    """The path in a line, and a warning of penalties that L-BFGS did not finish."""
    fit, metric, (chosen, value) = stage.spec.method.fit, stage.spec.task.monitor, best
    first, last = path[0], path[-1]
    ends = "; ".join(f"{short(end['penalty'])}: {short(end[metric])}" for end in (first, last))
    at_end = len(path) > 1 and chosen.penalty in (first["penalty"], last["penalty"])
    reporter.say(
        f"stage {stage.name!r}: {fit.name}, {len(path)} penalties, best on val {short(chosen.penalty)} "
        f"({metric} {short(value)}; {ends})" + (", an end of the path: widen options.penalties" if at_end else "")
    )
    if late := [point for point in path if point.get("gradient_norm", 0.0) > linear.TOLERANCE]:
        worst = max(late, key=lambda point: point["gradient_norm"])
        reporter.warn(
            f"stage {stage.name!r}: L-BFGS stopped after {linear.ITERATIONS} iterations at {len(late)} of {len(path)} "
            f"penalties, with a gradient norm of up to {short(worst['gradient_norm'])} (penalty "
            f"{short(worst['penalty'])}); expected {linear.TOLERANCE:g}"
        )
