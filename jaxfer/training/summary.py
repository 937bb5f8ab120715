"""A summary of a config from shapes alone, nothing allocated: each parameter's group, rate and decay, and the cost."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxfer import terminal
from jaxfer.data.overview import SAMPLE
from jaxfer.parallel.placement import Placement
from jaxfer.rules import flatten
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.terminal import FILE, NAME, Column, Page
from jaxfer.training import cached
from jaxfer.training.checked import Preflight
from jaxfer.training.examples import training_split
from jaxfer.training.preflight import preflight
from jaxfer.training.programs import forward_flops, step_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSummary:
    """One stage in numbers.

    Attributes:
      stage: the planned stage.
      where: the devices it runs on.
      params_trainable: number of trainable parameter values.
      params_total: number of all parameter values.
      optimizer_bytes: size of the optimizer state, replicas counted once.
      state_bytes: size of the whole State on one device.
      step_flops: floating-point operations of one training step on the whole batch.
      forward_flops: floating-point operations of one evaluation pass over as many examples.
      assumed: of the first stage, what the plan assumes of its checkpoint, a line each.
      features: whether they are computed once, and of what size they are, or why not; empty: not asked.
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
    features: str = ""

    def __str__(self) -> str:
        return self.text()

    def text(self, page: Page = FILE) -> str:
        """The stage, its parameters and its notes; the totals come last, where a long table leaves them in sight."""
        name, config = self.stage.name, self.stage.config
        at_once, steps = self.stage.spec.method.at_once, f"{config.steps} steps of {config.batch_size} examples"
        how = (
            steps
            if at_once is None
            else f"{at_once.done} at once by {at_once.told(self.stage.spec.port.feature_parts)}"
        )
        head = f"stage {name!r}: method {' + '.join((config.method, *config.adds))}, {how}"
        notes = [f"note: {note}" for note in (*self.assumed, *self.stage.notes, *self.where.notes(self.stage))]
        notes += [f"features: {self.features}"] if self.features else []
        if factors := self.stage.spec.method.factors:
            rates = {group: self.stage.hparams.get(f"lr/{group}", 0.0) for group in factors}  # none: frozen by a rule
            steps = (f"lr x scale of {group} {factors[group] * rate:g}" for group, rate in rates.items())
            notes += [f"scale of the product: {max(factors.values()):g}, {', '.join(steps)}"]
        rates = ", ".join(f"{path} {rate:g}" for path, rate in self.stage.spec.dropout)
        notes += [f"dropout in place of the model's: {rates}"] if rates else []
        step = (
            f"step {self.step_flops / 1e6:,.1f} MFLOP = {self.step_flops / max(self.forward_flops, 1):.2f} x forward "
            f"({self.forward_flops / 1e6:,.1f})"
        )
        totals = (
            f"trainable {self.params_trainable:,} of {self.params_total:,} parameters",
            f"optimizer {self.optimizer_bytes:,} bytes",
            *((step,) if at_once is None else ()),
            f"{self.where}, {self.state_bytes:,} bytes of State on each",
        )
        return "\n".join(
            (
                terminal.wrapped(head, page.width),
                parameter_table(self.stage, self.where, page),
                *(terminal.wrapped(note, page.width) for note in notes),
                terminal.packed(totals, page.width, between=" · "),
            )
        )


class Shown(tuple[StageSummary, ...]):
    """A summary of each stage, and the data's.

    Attributes:
      data: what the run would train and be evaluated on, in a few lines.
    """

    data: str

    def __str__(self) -> str:
        return self.text()

    def text(self, page: Page = FILE) -> str:
        """The data, then each stage."""
        return "\n\n".join((terminal.wrapped(self.data, page.width), *(stage.text(page) for stage in self)))


def show(config: ConfigDict, workdir: str | epath.Path | None = None) -> Shown:
    """Summarises the data and each stage of `config`.

    Args:
      config: as `jaxfer.load` returns it.
      workdir: the folder that the run would have: `init=sibling:NAME` is next to it.

    Raises:
      InputError: any config or data that `run` would refuse.
    """
    ready = preflight(config, place=None if workdir is None else epath.Path(workdir))
    first, *others = (
        dataclasses.replace(
            summary(stage, ready.where),
            features=cached.described(stage, ready.where, ready.experiment, _examples(ready, stage)),
        )
        for stage in ready.stages
    )
    shown = Shown((dataclasses.replace(first, assumed=ready.assumed), *others))
    shown.data = ready.overview(sample=SAMPLE)
    return shown


def _examples(ready: Preflight, stage: Stage) -> int:
    """How many a stage reads, for training and evaluation."""
    evaluated = (len(split) for name, split in ready.data.splits.items() if name != "train")
    return len(training_split(ready.experiment, stage, ready.data)) + sum(evaluated)


def summary(stage: Stage, where: Placement) -> StageSummary:
    """Summarises one planned stage from its shapes."""
    spec, state = stage.spec, stage.blank(0)
    batch = stage.example()
    return StageSummary(
        stage=stage,
        where=where,
        **sizes(stage, state, where),
        step_flops=step_flops(spec, state, batch, where),
        forward_flops=forward_flops(spec, state, batch),
    )


def sizes(stage: Stage, state: State, where: Placement) -> dict[str, int]:
    """The sizes of a State of the stage, arrays or shapes, under the names that `StageSummary` has for them."""
    parameters = {path: math.prod(leaf.shape) for path, leaf in stage.leaves().items()}
    return {
        "params_trainable": sum(parameters[path] for path in stage.spec.trainable),
        "params_total": sum(parameters.values()),
        "optimizer_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state)),
        "state_bytes": where.device_bytes(stage.spec, state),
    }


def parameter_table(stage: Stage, where: Placement, page: Page = FILE) -> str:
    """One row for each parameter: path, shape, group, peak learning rate, weight decay (`-` where frozen).

    The shape of a parameter split over devices is followed by the shape of one device's part: `768x3072 (768x768)`.
    """
    hparams: dict[str, Any] = {name: np.float64(value) for name, value in stage.hparams.items()}
    columns = (Column("parameter", NAME), *map(Column, ("shape", "group", "lr", "weight decay")))
    rows = []
    shapes, parts = stage.leaves(), flatten(where.shardings(stage.spec, stage.shapes[0], stage.shapes[0]))
    for path, leaf in stage.spec.leaves:
        part = parts[path].shard_shape(shapes[path].shape)
        shape = _shape(shapes[path].shape) + (f" ({_shape(part)})" if part != shapes[path].shape else "")
        if leaf is None:
            rows.append((path, shape, "FROZEN", "-", "-"))
        elif stage.spec.method.at_once is not None:
            rows.append((path, shape, leaf.group, "-", "-"))
        else:
            decay = stage.hparams["weight_decay"] * leaf.decay_scale
            rows.append((path, shape, leaf.group, f"{leaf.rate(hparams):.3g}", f"{decay:.3g}"))
    return terminal.table(columns, rows, page)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
