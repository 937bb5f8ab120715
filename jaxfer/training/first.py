"""The beginning of a run, computed without it: a stage's first State, its first batches, and the gradients there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from jaxfer.data.loader import Feed, train_batches
from jaxfer.errors import InputError
from jaxfer.rules import flatten
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.training import examples, lineage, streams, teachers
from jaxfer.training.checked import Preflight
from jaxfer.training.entering import entered


def largest_gradient(ready: Preflight) -> str:
    """The unit below the head whose gradient is largest relative to its parameters, on the run's first batch.

    Raises:
      InputError: a source beside a folder that is not known here (`sibling:`), or a loss that is not the task's alone.
    """
    init, stage = ready.experiment.run.init, ready.stages[0]
    if init.startswith("sibling:"):
        raise InputError(f"config.recipe_options.block=largest: expected init=run:FOLDER, found {init}")
    state = first_state(ready, stage, epath.Path("."))
    relative = relative_gradients(stage, state, next(first_batches(ready, stage, 1)))
    if not relative:
        raise InputError("config.recipe_options.block=largest: the task alone does not make the loss; name a block")
    return largest(relative)


def largest(relative: Mapping[str, float]) -> str:
    """The unit with the largest of these relative gradients, input first; a new head's is large whatever the data."""
    return max([*relative][:-1] or [*relative], key=relative.__getitem__)


def first_state(ready: Preflight, stage: Stage, folder: epath.Path) -> State:
    """The stage's first State, as the run's."""
    start = lineage.begin(ready, folder)
    run = {"experiment": ready.experiment, "data": ready.data, "where": ready.where, "folder": folder}
    return entered(stage, start.params, start.model_state, start.head, start.former, **run)


def first_batches(ready: Preflight, stage: Stage, steps: int) -> Iterator[dict[str, jax.Array]]:
    """The run's first batches, on the devices."""
    spec, experiment, where = stage.spec, ready.experiment, ready.where
    split = spec.task.expanded(examples.training_split(experiment, stage, ready.data), spec.port.encodings)
    others, sampler = teachers.encodings(stage), examples.sampler(experiment, stage.config, split)
    batches = train_batches(
        Feed(split=split, encodings=spec.port.encodings, targets=spec.task.targets, others=others, sampler=sampler),
        seed=experiment.run.seed,
        batch_size=stage.config.batch_size,
        start=0,
        stop=steps,
        augment=experiment.data.augment,
        workers=0,
        rows=where.rows(stage.config.batch_size),
        beside=streams.beside(experiment, stage, ready.data, where),
    )
    return where.feed(batches, train=True)


def relative_gradients(stage: Stage, state: State, batch: Mapping[str, Any]) -> dict[str, float]:
    """{unit: norm of the gradient over the norm of the parameters} of the task's loss, in evaluation mode.

    {} where the task alone does not make the loss, or each device has its own part of the batch (pmap).
    """
    spec = stage.spec
    port, task, method = spec.port, spec.task, spec.method
    if task.loss is None or batch[port.inputs[0]].shape[0] != stage.config.batch_size:
        return {}

    @jax.jit
    def gradient(params: Any, state: State, batch: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            outputs, _ = port.apply(
                method.view(params, state.extra),
                state.model_state,
                batch,
                intercept=method.intercept(params, state.extra),
            )
            return task.loss(outputs, batch, state.hparams).value()

        return jax.tree.map(lambda leaf: jnp.sum(leaf**2), (jax.grad(loss)(params), params))

    squares = [flatten(tree) for tree in jax.device_get(gradient(state.params, state, batch))]
    sums = [dict.fromkeys(port.units, 0.0) for _ in squares]
    for total, tree in zip(sums, squares, strict=True):
        for path, square in tree.items():
            if (unit := port.unit(path)) is not None:
                total[unit] += float(square)
    return {unit: math.sqrt(sums[0][unit] / sums[1][unit]) for unit in port.units if sums[1][unit]}
