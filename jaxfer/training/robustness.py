"""How a finished run does on corrupted inputs (`jaxfer/data/corruptions`), and what it kept of its source's task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from jaxfer.data.corruptions import KINDS, SEVERITIES, SEVERITY, Corruption, corrupted_split
from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.parallel.placement import placement
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import open_run
from jaxfer.training.adapting import Carried
from jaxfer.training.evaluation import check_classes, evaluate_split, reopened

CLEAN = "clean"
Metrics = dict[str, float]


def robustness(
    run: str | epath.Path,
    *,
    split: str = "val",
    severity: int = SEVERITY,
    corruptions: Sequence[str] = (),
    checkpoint: str = "result",
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Metrics]:
    """Evaluates a finished run on a split as it is, and under each corruption of its kind of inputs.

    Where the run adapts at evaluation with reset=continual, the corruptions are one sequence, in their order: the first
    begins with the trained network, each other one with what the one before left. The split as it is is none of it.

    Args:
      run: its folder.
      split: `val`, `test` or `train`.
      severity: 1 to 5, of ImageNet-C.
      corruptions: some of them by name, in this order; (): fifteen of images in ImageNet-C's order, two of texts.
      checkpoint: as of `evaluate`.
      overrides: likewise.

    Returns:
      {`clean`, then corruptions: {metric: value}}.

    Raises:
      InputError: as `evaluate`; an unknown corruption or severity; inputs that have no corruptions.
    """
    if severity not in SEVERITIES:
        raise InputError(f"--severity: expected 1 to {len(SEVERITIES)}, found {severity}")
    named = [Corruption.of(f"{name}:{severity}", "--corruptions") for name in corruptions]
    finished, experiment, data = reopened(run, split, checkpoint, overrides or {})
    check_classes(finished, data)
    whole = data.splits[split]
    kind = whole.input[1].kind
    if kind not in KINDS:
        raise InputError(f"--corruptions: expected inputs of kind {' or '.join(KINDS)}, found {kind!r}; leave it out")
    chosen = named or [Corruption(name, severity) for name in KINDS[kind]]
    where, spec, size = placement(experiment.parallel), finished.stage.spec, experiment.run.eval_batch_size
    state = where.place(spec, finished.state.replace(hparams={}, key=None, opt_state=()))
    carried, found = Carried(), {CLEAN: evaluate_split(spec, state, whole, where, size).metrics}
    for each in chosen:
        part = corrupted_split(whole, each)
        found[each.name] = evaluate_split(spec, state, part, where, size, carried=carried).metrics
    return found


def mean(found: Mapping[str, Metrics], metric: str) -> float:
    """The mean of a metric over the corruptions."""
    values = [metrics[metric] for name, metrics in found.items() if name != CLEAN]
    return sum(values) / len(values)


class Retention(NamedTuple):
    """What is left of a source's task.

    Attributes:
      metric: the source's own.
      before: of the source, on its val split.
      after: of the run's backbone under the source's head, on the same.
    """

    metric: str
    before: float
    after: float


def retention(run: str | epath.Path, source: str | epath.Path) -> Retention:
    """How well a run's backbone does the task of the run that it started from, under that run's head.

    Raises:
      InputError: one of the two is unfinished; the run's method left no plain backbone, or one of another model.
    """
    before, experiment, data = reopened(source, "val", "result", {})
    after = open_run(run)
    (params, model_state), (theirs, _) = after.stage.leave(after.state), before.stage.leave(before.state)
    spec, metric = before.stage.spec, before.stage.spec.task.monitor
    ours, theirs = flatten(params), flatten(theirs)
    mixed = {path: leaf if path.startswith(f"{spec.port.head}/") else ours.get(path) for path, leaf in theirs.items()}
    odd = [path for path, leaf in mixed.items() if leaf is None or leaf.shape != theirs[path].shape]
    if odd:
        raise InputError(f"{run}: its backbone has another {odd[0]} than that of {source}; both must be of one model")
    spec = dataclasses.replace(spec, method=Method(rules=()), port=spec.port.with_parts(()), streams=())
    weights = dict(params=unflatten(mixed), model_state=model_state)
    state = before.state.replace(**weights, extra={}, hparams={}, key=None, opt_state=())
    where = placement(experiment.parallel)
    found = evaluate_split(spec, where.place(spec, state), data.splits["val"], where, experiment.run.eval_batch_size)
    return Retention(metric, before.result["metrics"]["val"][metric], found.metrics[metric])
