"""The source's own output layer, kept for a method that states `source_outputs` although the run may make a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxfer.errors import InputError
from jaxfer.ports import port_shapes
from jaxfer.pretrained import carrying, heads
from jaxfer.pretrained.foreign import Checkpoint
from jaxfer.rules import flatten, unflatten
from jaxfer.stages import Stage


def of_params(params: Any, stage: Stage) -> dict[str, jax.Array] | None:
    """{path: leaf} of the output layer among the source's parameters; None where the stage's method asks for none.

    Raises:
      InputError: the source has another output layer than the stage was planned with.
    """
    if stage.given.head is None:
        return None
    head = {path: leaf for path, leaf in flatten(params).items() if path.startswith(f"{stage.spec.port.head}/")}
    _check(head, stage.given.head, stage.config.method)
    return head


def of_checkpoint(checkpoint: Checkpoint, stage: Stage, differs: Sequence[str]) -> dict[str, jax.Array] | None:
    """The same of a third-party checkpoint, whose tensors are read once more under its own width."""
    if stage.given.head is None:
        return None
    if stage.spec.port.neck is not None:
        raise InputError(
            f"method {stage.config.method!r} reads the source's output layer, which reads no neck; set "
            "config.model.neck=0"
        )
    port = stage.spec.port.with_outputs(heads.head_width(checkpoint))
    params, model_state = port_shapes(port)
    shapes = flatten({"params": params, **model_state})
    conversion = carrying.carry(checkpoint, port, shapes, reset=[], differs=differs)
    loaded, absent = flatten(conversion.params), {leaf.removeprefix("params/") for leaf in conversion.fresh}
    head = {path: jax.numpy.asarray(loaded[path]) for path in stage.given.head if path not in absent}
    return of_params(unflatten(head), stage)


def _check(head: Mapping[str, Any], planned: Mapping[str, Any], method: str) -> None:
    there, here = ({path: tuple(leaf.shape) for path, leaf in leaves.items()} for leaves in (head, planned))
    if there != here:
        raise InputError(
            f"method {method!r} reads the source's output layer: expected {here}, found {there or 'none'}; choose "
            "another config.init"
        )
