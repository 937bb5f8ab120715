"""Evaluation that adapts the network to what it reads (`Method.adapt`), batch by batch, in the split's order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxfer.errors import InputError
from jaxfer.method import CONTINUAL, EPISODIC
from jaxfer.models.port import Port
from jaxfer.parallel.placement import Placement
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.step import StepSpec
from jaxfer.training.programs import Program, adapt_program

Adapted = Callable[[Any], tuple[Program, bool, Any]]


@dataclasses.dataclass
class Carried:
    """What the evaluations of a sequence hand on, where their method's reset is `continual`; None before the first."""

    kept: Any = None


def begun(
    spec: StepSpec, state: State, where: Placement, *, examples: int, batch_size: int, carried: Carried | None = None
) -> Adapted | None:
    """What evaluates one batch after the other: batch -> (the program, whether it is new, what it gives).

    None where the method does not adapt. An evaluation of a sequence begins with what the one before `carried` on.

    Raises:
      InputError: as `check_batches`, or for several devices.
    """
    method = spec.method
    if method.adapt is None:
        return None
    _check_devices(where)
    check_batches(spec.port, state.model_state, examples, batch_size)
    start = method.adapt.start(method.seen(state.params, state.extra)[0])
    start = jax.device_put(start, where.replicated)
    carried = carried if carried is not None and method.adapt.reset == CONTINUAL else Carried()
    kept = start if carried.kept is None else carried.kept

    def evaluate(batch: Any) -> tuple[Program, bool, Any]:
        nonlocal kept
        program, fresh = adapt_program(spec, state, kept, batch, where)
        values, kept = program.call(state.params, state.model_state, state.extra, kept, batch)
        if method.adapt.reset == EPISODIC:
            kept = start
        carried.kept = kept
        return program, fresh, values

    return evaluate


def check(stages: Sequence[Stage], where: Placement, eval_batch_size: int) -> None:
    """What can be refused before the first step."""
    for stage in stages:
        if stage.spec.method.adapt is not None:
            _check_devices(where)
            check_batches(stage.spec.port, stage.shapes[1], 2 * eval_batch_size, eval_batch_size)


def check_batches(port: Port, model_state: Any, examples: int, batch_size: int) -> None:
    """`InputError` where a batch norm would take its statistics from one example."""
    if port.norms(model_state) and 1 in (batch_size, examples % batch_size):
        alone = "1" if batch_size == 1 else f"{batch_size}, which leaves one of {examples} examples alone"
        raise InputError(
            f"config.eval_batch_size: a network with batch norms adapts to the statistics of a batch, found {alone}; "
            "choose another size"
        )


def _check_devices(where: Placement) -> None:
    if where.size > 1:
        raise InputError(
            "config.parallel.devices: evaluation that adapts reads one batch after the other on one device, found "
            f"{where.size}; set it to 1"
        )
