"""Short training of one method on one tiny model, on random batches: what the numeric properties are computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import jaxfer.config
from jaxfer.config import resolve
from jaxfer.config.experiment import ParallelConfig
from jaxfer.conformance import tiny
from jaxfer.method import EVERY, PAIRS, SAME, TASK, UNLABELLED
from jaxfer.models.port import Port
from jaxfer.network import blank
from jaxfer.parallel.placement import Placement, placement
from jaxfer.ports import make_port
from jaxfer.registry import METHODS
from jaxfer.stages import Stage, example_batch, make_stages
from jaxfer.state import State
from jaxfer.training.programs import eval_arguments, eval_program, train_program

CLASSES = 3


def tiny_config(case: str, **fields: Any) -> ConfigDict:
    """A config of one tiny case on synthetic images, 8 examples a step; `fields` override.

    A text model's data and tokenizer are left to the caller: planning needs neither.
    """
    model, options = tiny.options(case)
    config = jaxfer.config.base()
    config.model = dict(name=model, **{name: value for name, value in options.items() if name != "outputs"})
    if "image" in options:
        config.data = dict(source="synthetic", image=options["image"], classes_count=CLASSES, examples=48)
    config.update(batch_size=8, steps=4, log_every=2, eval_every=0, save_every=0, schedule="constant")
    for name, value in fields.items():
        config[name] = value
    return with_needs(config)


def with_needs(config: ConfigDict) -> ConfigDict:
    """The config with a task that its method can learn, dropout where it needs any, and the streams that it reads:
    the same data once more."""
    plain = config.copy_and_resolve_references()
    plain.task = {"name": "classification"}
    port, _ = make_port(resolve(plain), CLASSES)
    schema = METHODS.schema(config.method)
    structural = {name: value for name, value in config.options.to_dict().items() if name in schema}
    method = METHODS.make(config.method, port, **structural)
    if method.tasks and config.task.name not in method.tasks:
        config.task = {"name": method.tasks[0]}
    if method.dropout and port.dropouts and not config.dropout_rules:
        config.dropout_rules = ((".*", 0.1),)
    own = {name: value for name, value in config.data.to_dict().items() if name != "workers"}
    sections = {
        UNLABELLED: own,
        SAME: {"rows": "same"},
        PAIRS: {"rows": "pairs"},
        TASK: {**own, "task": "classification"},
    }
    for name, kind in method.streams.items():
        config.stream["other" if name == EVERY else name] = sections.get(kind, own)
    return config


def tiny_stage(case: str, classes: int = CLASSES, **fields: Any) -> Stage:
    """The first stage of such a config, planned for data of so many classes (0: real targets).

    Other networks that its method reads are of the same model.
    """
    experiment = resolve(tiny_config(case, **fields))
    streams = {name: CLASSES for name, stream in experiment.streams if stream.task}
    stage = make_stages(experiment, *make_port(experiment, classes), streams=streams)[0]
    spec = stage.spec
    others = tuple((name, blank(spec.port, None, None)) for name in spec.method.others)
    return dataclasses.replace(stage, spec=dataclasses.replace(spec, others=others)) if others else stage


def backbone(stage: Stage, seed: int = 0) -> tuple[Any, Any]:
    """(params, model_state) away from their neutral initial values, so that nothing cancels by chance."""
    return tiny.draw(stage.spec.port, seed)


def entered(stage: Stage, seed: int = 0) -> State:
    """The stage's first State on that backbone, with random values of whatever else its method asks for."""
    state = stage.enter(*backbone(stage, seed), seed, tiny.given(stage.given, seed))
    others = {name: (*tiny.draw(network.port, seed + 100), None) for name, network in stage.spec.others}
    return state.replace(others=others)


def batches(stage: Stage, steps: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Random training batches of the stage's size."""
    rng, port, size = np.random.default_rng(seed), stage.spec.port, stage.config.batch_size
    shapes = example_batch(port, stage.spec.task, size)
    beside = {s.name: (s.shapes(port), s.batch_size) for s in stage.spec.streams if s.trained}
    return [
        _drawn(rng, port, shapes, size) | {name: _drawn(rng, port, *other) for name, other in beside.items()}
        for _ in range(steps)
    ]


def _drawn(rng: np.random.Generator, port: Port, shapes: Mapping[str, Any], size: int) -> dict[str, Any]:
    targets = {name: shape for name, shape in shapes.items() if name not in port.inputs}
    fields = {name: np.asarray(tiny.field(name, rng, port, size)) for name in port.inputs}
    return fields | {
        name: rng.integers(0, 2 if shape.dtype == bool else CLASSES, shape.shape).astype(shape.dtype)
        for name, shape in targets.items()
    }


def train(stage: Stage, steps: int, *, seed: int = 0, **parallel: Any) -> tuple[State, list[float]]:
    """(State after so many steps, loss of each) from the perturbed backbone, on one device or as `parallel` says."""
    where = placed_as(stage, **parallel)
    state = where.place(stage.spec, entered(stage, seed))
    return continue_training(stage, state, where, batches(stage, steps, seed))


def placed_as(stage: Stage, **parallel: Any) -> Placement:
    """One device, or as `config.parallel` says."""
    sizes, slices = [stage.config.batch_size], [stage.config.accumulate]
    return placement(ParallelConfig(**{"devices": 1, **parallel}), sizes, accumulate=slices)


def continue_training(stage: Stage, state: State, where: Placement, feed: list[Any]) -> tuple[State, list[float]]:
    """The same from a given State and given batches."""
    batch = stage.example()
    program, _ = train_program(stage.spec, state, batch, where)
    losses = []
    for batch in where.feed(feed, train=True):
        state, metrics = program.call(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses


def outputs(stage: Stage, state: State, batch: dict[str, np.ndarray]) -> np.ndarray:
    """The evaluation step's outputs [batch, width] on one device, wherever the State was trained."""
    program, _ = eval_program(stage.spec, state, batch, placement(ParallelConfig(devices=1)))
    return np.asarray(program.call(*jax.device_get(eval_arguments(stage.spec, state)), batch)["collected"])
