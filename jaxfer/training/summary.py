"""What a config would do, before anything is allocated: every parameter's group, rate and decay, and the cost."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxfer.data.overview import SAMPLE
from jaxfer.parallel.placement import Placement
from jaxfer.rules import flatten
from jaxfer.stages import Stage, example_batch
from jaxfer.state import State
from jaxfer.training.preflight import preflight
from jaxfer.training.programs import forward_flops, step_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSummary:
    """One stage in numbers.

    Attributes:
      stage: the plan.
      where: the devices.
      params_trainable: trainable values.
      params_total: all values.
      optimizer_bytes: of its optimizer state, over all devices once.
      state_bytes: of its whole State on one device.
      step_flops: floating-point operations of one training step of the whole batch.
      forward_flops: of one evaluation pass over as many examples.
      assumed: of the first stage, what the plan assumes of its checkpoint, a line each.
    """

    stage: Stage
    where: Placement
    params_trainable: int
    params_total: int
    optimizer_bytes: int
    state_bytes: int
    step_flops: float
    forward_flops: float
    assumed: tuple[str, ...] = ()

    def __str__(self) -> str:
        config = self.stage.config
        notes = "".join(f"note: {note}\n" for note in (*self.assumed, *self.stage.notes, *self.where.notes(self.stage)))
        return (
            f"stage {self.stage.name!r}: method {config.method}, {config.steps} steps of {config.batch_size} examples\n"
            f"{parameter_table(self.stage, self.where)}\n{notes}"
            f"trainable {self.params_trainable:,} of {self.params_total:,} parameters · optimizer "
            f"{self.optimizer_bytes:,} bytes · step {self.step_flops / 1e6:,.1f} MFLOP = "
            f"{self.step_flops / max(self.forward_flops, 1):.2f} x forward ({self.forward_flops / 1e6:,.1f}) · "
            f"{self.where}, {self.state_bytes:,} bytes of State on each"
        )


class Shown(tuple[StageSummary, ...]):
    """A summary of each stage, and the data's.

    Attributes:
      data: what the run would train and be evaluated on, in a few lines.
    """

    data: str

    def __str__(self) -> str:
        return "\n\n".join((self.data, *map(str, self)))


def show(config: ConfigDict) -> Shown:
    """A summary of each stage of `config`; `InputError` for whatever `run` would refuse of the config or the data."""
    plan = preflight(config)
    first, *others = (summary(stage, plan.where) for stage in plan.stages)
    shown = Shown((dataclasses.replace(first, assumed=plan.assumed), *others))
    shown.data = plan.overview(sample=SAMPLE)
    return shown


def summary(stage: Stage, where: Placement) -> StageSummary:
    """The numbers of one planned stage, from shapes alone."""
    spec, state = stage.spec, stage.blank(0)
    batch = example_batch(spec.port, spec.task, stage.config.batch_size)
    return StageSummary(
        stage=stage,
        where=where,
        **sizes(stage, state, where),
        step_flops=step_flops(spec, state, batch, where),
        forward_flops=forward_flops(spec, state, batch),
    )


def sizes(stage: Stage, state: State, where: Placement) -> dict[str, int]:
    """What a State of the stage, or its shapes, takes, as `StageSummary` names it."""
    parameters = {path: math.prod(leaf.shape) for path, leaf in stage.leaves().items()}
    return {
        "params_trainable": sum(parameters[path] for path in stage.spec.trainable),
        "params_total": sum(parameters.values()),
        "optimizer_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state)),
        "state_bytes": where.device_bytes(stage.spec, state),
    }


def parameter_table(stage: Stage, where: Placement) -> str:
    """A line for each parameter: path, shape, group, peak rate, weight decay (`-` where frozen).

    Where parameters are split over devices, the shape is followed by that of one device's part: `768x3072 (768x768)`.
    """
    hparams: dict[str, Any] = {name: np.float64(value) for name, value in stage.hparams.items()}
    rows = [("parameter", "shape", "group", "lr", "weight decay")]
    shapes, parts = stage.leaves(), flatten(where.shardings(stage.spec, stage.shapes[0], stage.shapes[0]))
    for path, leaf in stage.spec.leaves:
        part = parts[path].shard_shape(shapes[path].shape)
        shape = _shape(shapes[path].shape) + (f" ({_shape(part)})" if part != shapes[path].shape else "")
        if leaf is None:
            rows.append((path, shape, "FROZEN", "-", "-"))
        else:
            decay = stage.hparams["weight_decay"] * leaf.decay_scale
            rows.append((path, shape, leaf.group, f"{leaf.rate(hparams):.3g}", f"{decay:.3g}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
