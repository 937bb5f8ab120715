"""What a method measures before its first step: a mean over a split, or all of its rows, in evaluation mode."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxfer.config.experiment import Experiment
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError
from jaxfer.measuring import make_measure
from jaxfer.method import Given, Method
from jaxfer.models.port import Port
from jaxfer.parallel.placement import Placement, spread
from jaxfer.parallel.sharding import DATA, FSDP
from jaxfer.pretrained.ledger import Start
from jaxfer.rules import flatten
from jaxfer.stages import Stage
from jaxfer.task import Task
from jaxfer.training.examples import training_split

LARGEST = 2**28  # bytes of what one device measures at once: a row for each example may be as large as the model


def measured(
    stage: Stage, params: Any, model_state: Any, given: Given, split: Split, where: Placement, batch_size: int
) -> Any:
    """The mean of `Method.measure` over a split, or what `Method.measured_as` makes of the rows: float32 on the host.

    Sums of a batch are taken in float32 on the devices, without the padding, and those of the batches in float64. All
    parameters lie on every device meanwhile.

    Args:
      stage: what is entered.
      params: of the backbone.
      model_state: its running statistics.
      given: with the source's head, where the method asks for it.
      split: the examples; fields and targets are those of the stage.
      where: the devices.
      batch_size: examples at once, at most; fewer where what is measured of one is large.

    Raises:
      InputError: what was measured is not finite.
    """
    spec, size = stage.spec, _batch_size(stage, len(split), where, batch_size)
    read = spec.task.expanded(split, spec.port.encodings)
    feed = Feed(split=read, encodings=spec.port.encodings, targets=spec.task.targets)
    made, compute = spec.method.measured_as, _totals if spec.method.measured_as is None else _gathered
    total = compute(spec.model, spec.task, spec.method, where.mesh)
    arguments = [spread(tree, jax.tree.map(lambda _: where.replicated, tree)) for tree in (params, model_state, given)]
    parts: list[Any] = []
    for batch in where.feed(_batches(feed, size, where), train=False):
        mask = batch.pop("mask")
        part = jax.device_get(total(*arguments, batch, mask))
        if made is not None:
            rows, real = part
            parts.append(jax.tree.map(lambda x, real=real: x[real > 0], rows))
        else:
            part = jax.tree.map(lambda x: np.asarray(x, np.float64), part)
            parts = [jax.tree.map(np.add, *parts, part) if parts else part]
    if made is not None:
        found = made.of(jax.tree.map(lambda *x: np.concatenate(x), *parts))
    else:
        found = jax.tree.map(lambda x: (x / len(read)).astype(np.float32), *parts)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)):
        raise InputError(
            f"method {stage.config.method!r} measured values that are not finite on the source's parameters; choose "
            "another config.init"
        )
    return found


def examples(experiment: Experiment, stage: Stage, data: Dataset) -> Split:
    """What the stage's method measures: the stream `former` where it asks for that and there is one, else its own; of
    either so many examples at most as the method says."""
    method = stage.spec.method
    former = method.measure_on == "former" and "former" in data.streams
    split = data.streams["former"].splits["train"] if former else training_split(experiment, stage, data)
    if method.measured_rows is None or len(split) <= method.measured_rows:
        return split
    rows = np.random.default_rng(experiment.run.seed).choice(len(split), method.measured_rows, replace=False)
    return split.take(np.sort(rows))


def check(stage: Stage, start: Start, data: Dataset) -> None:
    """`InputError` where a stage measures data of the source's task, and the examples are of other classes."""
    method = stage.spec.method
    if method.measure_on == "train" or start.head is None:
        return
    if "former" in data.streams:
        classes = len(data.streams["former"].classes)
        if classes != method.source_outputs:
            raise InputError(
                f"config.stream.former: it has {classes} classes, the source {method.source_outputs}; name the data "
                "that the source was trained on"
            )
        return
    own = flatten(start.params)
    if any(own[path].shape != leaf.shape or not np.array_equal(own[path], leaf) for path, leaf in start.head.items()):
        raise InputError(
            f"method {stage.config.method!r} measures the source on data of its own classes, and this run makes a new "
            "head for others; name the source's data in config.stream.former, or keep its head (config.head=keep)"
        )


def _batches(feed: Feed, size: int, where: Placement) -> Iterator[dict[str, np.ndarray]]:
    return eval_batches(feed, batch_size=size, rows=where.rows(size))


def _batch_size(stage: Stage, examples: int, where: Placement, largest: int) -> int:
    row = sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(stage.given.measured))
    return where.rounded(max(1, min(largest, examples, where.parts * LARGEST // max(row, 1))))


@functools.lru_cache(maxsize=16)
def _totals(port: Port, task: Task, method: Method, mesh: Mesh) -> Any:
    """(params, model_state, given, batch, mask) -> the sums over the examples that are no padding.

    Each device measures its own examples with all parameters, by itself: of gradients of single examples of a
    convolution, which are grouped convolutions, XLA's partitioner makes others (jax 0.10.2: off by 86 % on 4 devices).
    """
    measure = make_measure(port, task, method)

    def total(params: Any, model_state: Any, given: Given, batch: Any, mask: jax.Array) -> Any:
        rows = measure(params, model_state, given, batch)
        sums = jax.tree.map(lambda x: jnp.tensordot(mask, x.astype(jnp.float32), 1), rows)
        return jax.lax.psum(sums, (DATA, FSDP))

    whole, split = PartitionSpec(), PartitionSpec((DATA, FSDP))
    specs = (whole, whole, whole, split, split)
    return jax.jit(jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False))


@functools.lru_cache(maxsize=16)
def _gathered(port: Port, task: Task, method: Method, mesh: Mesh) -> Any:
    """(params, model_state, given, batch, mask) -> (the rows of all devices, their mask), in the batch's order."""
    measure = make_measure(port, task, method)

    def gathered(params: Any, model_state: Any, given: Given, batch: Any, mask: jax.Array) -> Any:
        rows = jax.tree.map(lambda x: x.astype(jnp.float32), measure(params, model_state, given, batch))
        return jax.lax.all_gather((rows, mask), (DATA, FSDP), tiled=True)

    whole, split = PartitionSpec(), PartitionSpec((DATA, FSDP))
    specs = (whole, whole, whole, split, split)
    return jax.jit(jax.shard_map(gathered, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False))
