"""The models of a run: of the config's task, of stages with tasks of their own, and with heads for other streams."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxfer import rules
from jaxfer.config.experiment import Experiment, StageConfig
from jaxfer.errors import InputError
from jaxfer.models import heads, neck
from jaxfer.models.parts import Part
from jaxfer.models.port import Port
from jaxfer.registry import MODELS, TASKS
from jaxfer.task import Task


def make_port(experiment: Experiment, classes: int) -> tuple[Port, Task]:
    """The model with a head for the task's outputs, and the task."""
    name, run = experiment.task.name, experiment.run
    made = TASKS.make(name, **dict(experiment.task.options))
    task = made.watching(name, run.monitor, run.monitor_mode)
    fewest, most = (task.for_classes or {}).get(task.monitor, (0, None))
    if not fewest <= classes <= (classes if most is None else most):
        wanted = f"{fewest}" if most == fewest else f"at least {fewest}"
        raise InputError(f"config.monitor: {task.monitor} is of {wanted} classes, the data has {classes}; name another")
    return _port(experiment, name, task, classes), task


def _port(experiment: Experiment, name: str, task: Task, classes: int, *, plain: bool = False) -> Port:
    model, options = experiment.model, dict(experiment.model.options)
    if plain:
        options = {option: value for option, value in options.items() if option not in neck.OPTIONS}
    heads.check(model.name, MODELS.get(model.name), task.head, name)
    outputs = task.outputs(classes)
    kind = {} if task.head == heads.POOLED else {"head": task.head}
    port = MODELS.make(model.name, outputs=outputs, **kind, **options)
    port = port.with_words() if task.words else port
    port = port.with_apart() if task.apart else port
    if task.apart and not port.apart:
        other = next(encoding for encoding in port.encodings if not getattr(encoding, "apart", False))
        raise InputError(
            f"task {name!r} reads pairs of texts, model {model.name!r} reads {other.noun}; choose another of the two"
        )
    return port


def of_stage(
    experiment: Experiment, name: str, port: Port, task: Task, classes: int
) -> tuple[Port, Task, Mapping[str, float]]:
    """(model, task, the task's hparams) of a stage that names this task; empty: the config's."""
    if name in ("", experiment.task.name):
        return port, task, experiment.task_hparams
    own = TASKS.make(name)
    # A neck is below a pooled output layer alone: a stage that has none goes without, and the next one draws it.
    made = _port(experiment, name, own, classes, plain=own.head != heads.POOLED)
    other = dataclasses.replace(made, encodings=port.encodings)
    return (other.with_words() if own.words else other), own, own.hparams or {}


def with_heads(
    experiment: Experiment, config: StageConfig, port: Port, task: Task, classes: Mapping[str, int], where: str
) -> Port:
    """The stage's model with a head for each stream that has a task.

    Args:
      experiment: the checked config.
      config: of the stage.
      port: its model.
      task: its task.
      classes: {stream: number of classes of its data}.
      where: what errors call the stage.
    """
    trained = [(name, stream.task) for name, stream in experiment.streams if stream.task]
    if trained and config.task not in ("", experiment.task.name):
        raise InputError(
            f"{where}.task: a stage with a task of its own has no heads of other streams, found "
            f"config.stream.{trained[0][0]}; use two runs"
        )
    at_head = {path.removeprefix(f"{port.head}/").split("/")[0] for path in rules.flatten(port_shapes(port)[0])}
    if trained and port.neck is not None:
        raise InputError(
            f"config.model.neck: it is the main head's own, found a head for config.stream.{trained[0][0]}; set "
            "config.model.neck=0"
        )
    inside = []
    for name, own in ((name, TASKS.make(own)) for name, own in trained):
        if name in at_head:
            raise InputError(f"config.stream.{name}: the head has a parameter of this name; rename the stream")
        try:
            model = _port(experiment, dict(trained)[name], own, classes.get(name, 0))
        except InputError as error:
            section = f"config.stream.{name}"  # what a task says is of the config's own
            raise InputError(f"{section}: {str(error).replace('config.task.name', f'{section}.task')}") from None
        model = dataclasses.replace(model, encodings=port.encodings)
        model = model.with_words() if own.words else model
        model = model.with_apart() if own.apart else model
        path = model.head if own.head == task.head else model.units[-1]
        inside.append(dataclasses.replace(model, part=Part(name=name, head=port.head, own=path)))
    return port.with_parts(inside) if inside else port


@functools.lru_cache(maxsize=64)
def compiled_port_init(port: Port) -> Any:
    """`port.init` under jit: compiled once for all seeds, with the same bits for every caller."""
    return drawn(port.init)


def drawn(init: Callable[..., Any]) -> Any:
    """A function that draws parameters, under jit; on a CPU compiled in about half the time, with the same bits.

    It runs once a run, so XLA's costly passes don't pay. Level 0 would draw other bits. A level that the user gave in
    XLA_FLAGS takes precedence.
    """
    level = "xla_backend_optimization_level"
    quick = jax.default_backend() == "cpu" and level not in os.environ.get("XLA_FLAGS", "")
    return jax.jit(init, compiler_options={level: 1} if quick else None)


@functools.lru_cache(maxsize=64)
def port_shapes(port: Port) -> tuple[Any, Any]:
    """(params, model_state) of the port as ShapeDtypeStructs; fresh parameters are then drawn from the same trace."""
    return jax.eval_shape(compiled_port_init(port), jax.random.key(0), port.example(2))
