"""What a config would do, before anything is allocated: every parameter's group, rate and decay, and the cost."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxfer.parallel import forward_flops, lowered_flops
from jaxfer.preflight import preflight
from jaxfer.stages import Stage, example_batch
from jaxfer.step import make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSummary:
    """One stage in numbers.

    Attributes:
      stage: the plan.
      params_trainable: trainable values.
      params_total: all values.
      optimizer_bytes: of its optimizer state.
      step_flops: floating-point operations of one training step of the whole batch.
      forward_flops: of one evaluation pass over as many examples.
    """

    stage: Stage
    params_trainable: int
    params_total: int
    optimizer_bytes: int
    step_flops: float
    forward_flops: float

    def __str__(self) -> str:
        config = self.stage.config
        return (
            f"stage {self.stage.name!r}: method {config.method}, {config.steps} steps of {config.batch_size} examples\n"
            f"{parameter_table(self.stage)}\n{''.join(f'note: {note}{chr(10)}' for note in self.stage.notes)}"
            f"trainable {self.params_trainable:,} of {self.params_total:,} parameters · optimizer "
            f"{self.optimizer_bytes:,} bytes · step {self.step_flops / 1e6:,.1f} MFLOP = "
            f"{self.step_flops / max(self.forward_flops, 1):.2f} x forward ({self.forward_flops / 1e6:,.1f})"
        )


def show(config: ConfigDict) -> tuple[StageSummary, ...]:
    """A summary of each stage of `config`; `InputError` for whatever `run` would refuse of the config or the data."""
    return tuple(summary(stage) for stage in preflight(config).stages)


def summary(stage: Stage) -> StageSummary:
    """The numbers of one planned stage, from shapes alone."""
    spec, state = stage.spec, stage.blank(0)
    batch = example_batch(spec.port, spec.task, stage.config.batch_size)
    sizes = {path: math.prod(leaf.shape) for path, leaf in stage.leaves().items()}
    return StageSummary(
        stage=stage,
        params_trainable=sum(sizes[path] for path in spec.trainable),
        params_total=sum(sizes.values()),
        optimizer_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state)),
        step_flops=lowered_flops(make_train_step(spec), state, batch),
        forward_flops=forward_flops(spec, state, batch),
    )


def parameter_table(stage: Stage) -> str:
    """A line for each parameter: path, shape, group, peak rate, weight decay (`-` where frozen)."""
    hparams: dict[str, Any] = {name: np.float64(value) for name, value in stage.hparams.items()}
    rows = [("parameter", "shape", "group", "lr", "weight decay")]
    shapes = stage.leaves()
    for path, leaf in stage.spec.leaves:
        shape = "x".join(map(str, shapes[path].shape)) or "scalar"
        if leaf is None:
            rows.append((path, shape, "FROZEN", "-", "-"))
        else:
            decay = stage.hparams["weight_decay"] * leaf.decay_scale
            rows.append((path, shape, leaf.group, f"{leaf.rate(hparams):.3g}", f"{decay:.3g}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
