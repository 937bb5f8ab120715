"""A method's pass over all examples of a stream between steps (`Method.passes`), from which `State.extra` is made anew.

It depends on the State and the examples alone, and is made before a step whose number says so: what it gave is in every
checkpoint, and a run that is resumed there makes it again.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from jaxfer.data.loader import Feed, eval_batches
from jaxfer.data.split import Dataset
from jaxfer.measuring import another_pass, evaluation
from jaxfer.method import Context
from jaxfer.parallel.placement import Placement
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.step import StepSpec


def renewed(stage: Stage, state: State, data: Dataset, where: Placement, batch_size: int, done: int) -> State:
    """The State that the stage's next step begins with: with a new `extra` where a pass is due.

    Args:
      stage: under way.
      state: after `done` of its steps.
      data: the run's, with its streams.
      where: the devices.
      batch_size: examples at once; it changes nothing but rounding.
      done: steps of the stage.
    """
    over = stage.spec.method.passes
    if over is None or not over.due(done, stage.config.steps):
        return state
    rows = gathered(stage, state, data.streams[over.stream].splits["train"], where, batch_size)
    return where.place(stage.spec, state.replace(extra=over.kept(rows, state)))


def gathered(stage: Stage, state: State, split: Any, where: Placement, batch_size: int) -> Any:
    """`Pass.rows` of each example of a split, in its order: a tree of [examples, ...] on the host."""
    feed, size = Feed(split=split, encodings=stage.spec.port.encodings), where.rounded(min(batch_size, len(split)))
    rows, parts, left = _program(stage.spec, where), [], len(split)

    def unmasked() -> Any:
        for batch in eval_batches(feed, batch_size=size, rows=where.rows(size)):
            batch.pop("mask")  # padding comes last
            yield batch

    for batch in where.feed(unmasked(), train=False):
        found = jax.device_get(rows(state.params, state.model_state, state.extra, batch))
        parts.append(jax.tree.map(lambda x, left=left: np.asarray(x)[:left], found))
        left -= size
    return jax.tree.map(lambda *each: np.concatenate(each), *parts)


@functools.lru_cache(maxsize=16)
def _program(spec: StepSpec, where: Placement) -> Any:
    """(params, model_state, extra, batch) -> the method's rows, compiled for each shape of a batch."""
    port, task, method = where.applied(spec).model, spec.task, spec.method

    def rows(params: Any, model_state: Any, extra: Any, batch: Any) -> Any:
        apply, forward = evaluation(port, model_state, batch), another_pass(port, model_state, batch)
        step, key = jax.numpy.zeros((), "int32"), jax.random.key(0)
        kept = {"forward": forward, "model_state": model_state}
        return method.passes.rows(Context(apply, task, batch, params, extra, {}, {}, step, key, **kept))

    return jax.jit(rows, out_shardings=where.replicated)
