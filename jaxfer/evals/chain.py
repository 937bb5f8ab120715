"""`jaxfer.chain`: runs that learned one task after the other, each on every task: what is left, what helped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.evals.transfer_matrix import Transfer, transfer
from jaxfer.models import neck, parts
from jaxfer.models.port import Port
from jaxfer.parallel.placement import placement
from jaxfer.pretrained.trained_heads import TrainedHead, trained_heads
from jaxfer.runs.finished import FinishedRun
from jaxfer.state import State
from jaxfer.step import UNCHANGED, StepSpec
from jaxfer.training.evaluation import evaluate, evaluate_split, reopened

EARLIER = ("memory", "former")  # the streams in which methods read the task before, of other data too
Head = Mapping[str, Any]  # {path below the output layer: leaf}
BARE: dict[str, Any] = dict(
    extra={}, opt_state=(), hparams={}, key=None, others={}
)  # of a state that is evaluated alone


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

    A task is answered under the head that was last trained on it, that of a run or of a stream with the task's data, by
    the backbone as the run leaves it; the next task under the run's own head. A method that adds modules
    (`progressive`) keeps a network for each task: there the scores on earlier tasks stay what they were.

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
    necks = [neck.facts(finished.stage.spec.port) for finished, _, _ in opened]
    for run, own in zip(runs, necks, strict=True):
        if own != necks[0]:  # no head is read under another
            raise InputError(f"{run}: its neck is {own}, that of {runs[0]} {necks[0]}; leave it out")
    classes, rows, known, trained_on = [data.classes for _, _, data in opened], [], [], []
    for place, (finished, experiment, _) in enumerate(opened):
        row = [math.nan] * len(runs)
        port, plain = finished.stage.spec.port, finished.stage.spec.method.merge is not None
        params, model_state = finished.state.params, finished.state.model_state
        if plain:
            params, model_state = finished.stage.leave(finished.state, heads=True)
        own, *streams = trained_heads(finished, params)
        again = {task: own.leaves for task, earlier in enumerate(trained_on) if earlier == own.trained_on}
        for task, head in {**_later(port, streams, trained_on), **again}.items():
            known[task] = head
        known.append(own.leaves)
        trained_on.append(own.trained_on)
        if not plain:
            row[:place] = rows[-1][:place] if rows else []
            row[place] = evaluate(runs[place], split=split, quiet=True)[tasks[0].monitor]
        else:
            ahead = [own.leaves] if place + 1 < len(runs) and classes[place + 1] == classes[place] else []
            where, spec = placement(experiment.parallel), _plain(finished)
            params = parts.without(params, (part.part for part in port.parts))
            left = finished.state.replace(params=params, model_state=model_state, **BARE)
            for task, head in enumerate([*known, *ahead]):
                examples = opened[task][2].splits[split]
                state = where.place(spec, _under(left, port, head))
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


def _later(
    port: Port, streams: Sequence[TrainedHead], trained_on: Sequence[tuple[str, tuple[str, ...]]]
) -> dict[int, Head]:
    """{earlier task: its head as a run leaves it} of those that the run has a stream of.

    Args:
      port: the run's.
      streams: heads that it has beside its own.
      trained_on: data and classes of the tasks before.
    """
    found: dict[int, Head] = {}
    for stream in sorted((each for each in streams if each.own == port.head), key=lambda each: each.moved):
        tasks = [task for task, known in enumerate(trained_on) if known == stream.trained_on]
        if not tasks and trained_on and stream.stream in EARLIER and stream.trained_on[1] == trained_on[-1][1]:
            tasks = [len(trained_on) - 1]
        found |= dict.fromkeys(tasks, stream.leaves)
    return found


def _plain(run: FinishedRun) -> StepSpec:
    """The run's step without what its method or its streams add."""
    port = run.stage.spec.port.with_parts(())
    return dataclasses.replace(run.stage.spec, method=UNCHANGED, port=port, streams=())


def _under(state: State, port: Port, head: Head) -> State:
    """The state of a plain model with that head."""
    leaves = {f"{port.head}/{path}": leaf for path, leaf in head.items()}
    return state.replace(params=rules.unflatten({**rules.flatten(state.params), **leaves}))
