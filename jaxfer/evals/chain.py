"""`jaxfer.chain`: runs that learned one task after the other, each on every task: what is left, what helped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from etils import epath

from jaxfer import rules
from jaxfer.config.experiment import Experiment
from jaxfer.data.split import Dataset
from jaxfer.errors import InputError
from jaxfer.evals.transfer_matrix import Transfer, transfer
from jaxfer.parallel.placement import placement
from jaxfer.runs.finished import FinishedRun
from jaxfer.state import State
from jaxfer.step import UNCHANGED, StepSpec
from jaxfer.training.evaluation import evaluate, evaluate_split, reopened
from jaxfer.training.streams import with_streams

EARLIER = ("memory", "former")  # the streams in which methods read the task before
Head = dict[str, object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chain:
    """What a chain of runs scores.

    Attributes:
      metric: that of all its tasks.
      scores: [run][task] that metric on each task (columns) after each run (rows); NaN where there was no head for a
        task yet.
      transfer: average, forgetting, backward and forward transfer; of a metric of which less is better the average is
        the metric's own, and the others have the sign of one of which more is better.
    """

    metric: str
    scores: tuple[tuple[float, ...], ...]
    transfer: Transfer


def chain(runs: Sequence[str | epath.Path], *, split: str = "val", untrained: Sequence[float] | None = None) -> Chain:
    """Evaluates each run on the tasks of all runs up to its own, and on the next one where the classes are the same.

    A task is answered under the head that was last trained on it, by the backbone as the run leaves it; the next task
    under the run's own head. A method that adds modules (`progressive`) keeps a network for each task: there the scores
    on earlier tasks stay what they were.

    Args:
      runs: folders of finished runs in the order of their tasks, one for each.
      split: `val`, `test` or `train`, of each task.
      untrained: scores of an untrained network on each task, for forward transfer; without them there is none.

    Raises:
      InputError: fewer than two runs, tasks of different metrics, `untrained` where a task can't be scored before, or
        what `jaxfer.evaluate` refuses.
    """
    if isinstance(runs, str) or len(runs) < 2 or len(set(map(str, runs))) < len(runs):
        raise InputError(f"expected the folders of at least two different runs, one for each task, found {runs!r}")
    if untrained is not None and len(untrained) != len(runs):
        raise InputError(
            f"expected a score of an untrained network for each of {len(runs)} tasks, found {len(untrained)}"
        )
    opened = [reopened(run, split, "result", {}) for run in runs]
    tasks = [finished.stage.spec.task for finished, _, _ in opened]
    for run, task in zip(runs, tasks, strict=True):
        if task.monitor != tasks[0].monitor:
            raise InputError(f"{run}: goes by {task.monitor}, but {runs[0]} by {tasks[0].monitor}; leave it out")
    classes, rows, known = [data.classes for _, _, data in opened], [], []
    for place, (finished, experiment, data) in enumerate(opened):
        row = [math.nan] * len(runs)
        own, before = _heads(finished)
        if place and before and _classes_before(experiment, data) == classes[place - 1]:
            known[-1] = before
        known.append(own)
        if finished.stage.spec.method.merge is None:
            row[:place] = rows[-1][:place] if rows else []
            row[place] = evaluate(runs[place], split=split, quiet=True)[tasks[0].monitor]
        else:
            ahead = [own] if place + 1 < len(runs) and classes[place + 1] == classes[place] else []
            where, spec = placement(experiment.parallel), _plain(finished)
            for task, head in enumerate([*known, *ahead]):
                examples = opened[task][2].splits[split]
                state = where.place(spec, _under(finished, head))
                found = evaluate_split(spec, state, examples, where, experiment.run.eval_batch_size)
                row[task] = found.metrics[tasks[0].monitor]
        rows.append(tuple(row))
    sign = 1 if tasks[0].maximize else -1
    start = None if untrained is None else [sign * score for score in untrained]
    found = transfer([[sign * score for score in row] for row in rows], start)
    if untrained is not None and found.forward is None:
        raise InputError(
            "no forward transfer: a task has other classes than the one before; leave the untrained scores out"
        )
    found = dataclasses.replace(found, average=sign * found.average)
    return Chain(metric=tasks[0].monitor, scores=tuple(rows), transfer=found)


def _heads(run: FinishedRun) -> tuple[Head, Head]:
    """(the head of the run's task, that of the task before: {path: leaf}) as the run leaves them."""
    leaves, below = rules.flatten(run.state.params), f"{run.stage.spec.port.head}/"
    streams = tuple(f"{below}{stream.name}/" for stream in run.stage.spec.streams)
    own = {path: x for path, x in leaves.items() if path.startswith(below) and not path.startswith(streams)}
    before = {
        below + path.removeprefix(f"{below}{name}/"): x
        for name in EARLIER
        for path, x in leaves.items()
        if path.startswith(f"{below}{name}/")
    }
    # lwf trains the head of the source beside a stream that is only evaluated.
    return own, before | {path.removeprefix("lwf/"): x for path, x in leaves.items() if path.startswith("lwf/")}


def _classes_before(experiment: Experiment, data: Dataset) -> tuple[str, ...] | None:
    """Those of the stream that the method reads the task before from."""
    read = with_streams(experiment, data).streams
    return next((read[name].classes for name in EARLIER if name in read), None)


def _plain(run: FinishedRun) -> StepSpec:
    """The run's step without what its method or its streams add."""
    port = run.stage.spec.port.with_parts(())
    return dataclasses.replace(run.stage.spec, method=UNCHANGED, port=port, streams=())


def _under(run: FinishedRun, head: Head) -> State:
    """The run's state as a plain model with that head."""
    params, model_state = run.stage.leave(run.state)
    params = rules.unflatten({**rules.flatten(params), **head})
    plain = dict(extra={}, opt_state=(), hparams={}, key=None, others={})
    return run.state.replace(params=params, model_state=model_state, **plain)
