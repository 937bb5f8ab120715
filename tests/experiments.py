"""Tiny whole experiments for the tests: one set of synthetic images, one of phrases, every model at its smallest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import jaxfer.config
from jaxfer.config import resolve
from jaxfer.config.experiment import ParallelConfig
from jaxfer.parallel.placement import Placement, placement
from jaxfer.stages import Stage, example_batch, make_port, plan
from jaxfer.state import State
from jaxfer.training.programs import train_program
from tests.models.tiny import FIELDS, TINY, draw

CLASSES = 3
DATA = Path(__file__).parent / "data"
PHRASES, TOKENIZER = str(DATA / "phrases"), str(DATA / "tokenizer")  # 48 of three classes; 23 tokens


def tiny_config(case: str, **fields: Any) -> ConfigDict:
    """A config of one tiny model (a key of TINY) on 48 images or phrases, 8 a step; `fields` override."""
    model, options = TINY[case]
    config = jaxfer.config.base()
    config.model = dict(name=model, **{k: v for k, v in options.items() if k != "outputs"})
    if "image" in options:
        config.data = dict(source="synthetic", image=options["image"], classes_count=CLASSES, examples=48)
    else:
        config.data = dict(source="table", path=PHRASES)
        config.model.tokenizer = TOKENIZER
    config.update(batch_size=8, steps=4, log_every=2, eval_every=0, save_every=0, schedule="constant")
    for name, value in fields.items():
        config[name] = value
    return config


def tiny_stage(case: str, **fields: Any) -> Stage:
    """The first stage of such a config, planned."""
    experiment = resolve(tiny_config(case, **fields))
    return plan(experiment, *make_port(experiment, CLASSES))[0]


def backbone(stage: Stage, seed: int = 0) -> tuple[Any, Any]:
    """(params, model_state) away from their neutral initial values, so that nothing cancels by chance."""
    return draw(stage.spec.port, seed)


def batches(stage: Stage, steps: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Random training batches of the stage's size."""
    rng, port, size = np.random.default_rng(seed), stage.spec.port, stage.config.batch_size
    label = example_batch(port, stage.spec.task, size)["label"]
    return [
        {
            **{name: np.asarray(FIELDS[name](rng, port, size)) for name in port.inputs},
            "label": rng.integers(0, 2 if label.dtype == bool else CLASSES, label.shape).astype(label.dtype),
        }
        for _ in range(steps)
    ]


def train(stage: Stage, steps: int, *, seed: int = 0, **parallel: Any) -> tuple[State, list[float]]:
    """(State after so many steps, loss of each) from the perturbed backbone, on one device or as `parallel` says."""
    where = placement(ParallelConfig(**{"devices": 1, **parallel}), [stage.config.batch_size])
    state = where.place(stage.spec, stage.enter(*backbone(stage, seed), seed))
    return continue_training(stage, state, where, batches(stage, steps, seed))


def continue_training(stage: Stage, state: State, where: Placement, feed: list[Any]) -> tuple[State, list[float]]:
    """The same from a given State and given batches."""
    program, _ = train_program(
        stage.spec, state, example_batch(stage.spec.port, stage.spec.task, stage.config.batch_size), where
    )
    losses = []
    for batch in where.feed(feed, train=True):
        state, metrics = program.call(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses
