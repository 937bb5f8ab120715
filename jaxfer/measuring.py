"""What a method computes of a batch beside the training pass: other passes, and a row of values for each example."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfer.method import Context, Given, Method
from jaxfer.models.port import Port, Training
from jaxfer.rules import flatten, unflatten
from jaxfer.task import Task

Batch = Mapping[str, Any]


def make_measure(port: Port, task: Task, method: Method) -> Callable[[Any, Any, Given, Batch], Any]:
    """(backbone params, model_state, given, batch) -> what the method measures of each example: leaves [batch, ...]."""

    if method.source_outputs is not None:  # the network as its source left it
        port = port.with_outputs(method.source_outputs or port.outputs)

    def measure(params: Any, model_state: Any, given: Given, batch: Batch) -> Any:
        if given.head is not None:
            params = unflatten({**flatten(params), **given.head})

        evaluate = evaluation(port, model_state, batch)
        taps = port.forward(params, model_state, batch, taps=method.taps).taps if method.taps else {}
        step, key = jnp.zeros((), jnp.int32), jax.random.key(0)
        forward = another_pass(port, model_state, batch)
        return method.measure(
            Context(evaluate, task, batch, params, None, {}, {}, step, key, taps, forward=forward), given
        )

    return measure


def evaluation(port: Port, model_state: Any, batch: Batch) -> Callable[..., jax.Array]:
    """`Context.apply`."""

    def evaluate(backbone: Any, other: Batch | None = None) -> jax.Array:
        if other is None:
            return port.apply(backbone, model_state, batch)[0]
        # Of any number of examples, one under vmap say: it has no axis to lie along the devices'.
        alone = port.computed(dataclasses.replace(port.execution, boundary=None, batched=None))
        return alone.apply(backbone, model_state, other)[0]

    return evaluate


def another_pass(
    port: Port, model_state: Any, batch: Batch, anew: Callable[[], Training | None] = lambda: None
) -> Callable[..., Any]:
    """`Context.forward`; `anew` gives the settings of a training pass."""
    own = model_state

    def forward(
        backbone: Any, *, other: Batch | None = None, model_state: Any = None, train: bool = False, **how: Any
    ) -> Any:
        read, statistics = batch if other is None else other, own if model_state is None else model_state
        return port.forward(backbone, statistics, read, training=anew() if train else None, **how)

    return forward
