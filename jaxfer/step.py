"""The training and evaluation steps: pure functions of arrays, no mesh, no files. Read them top to bottom."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfer.method import FROZEN, Context, Method
from jaxfer.models.execution import PLAIN, Execution
from jaxfer.models.port import Port, Training
from jaxfer.optim import Leaf, make_tx
from jaxfer.rules import flatten, unflatten
from jaxfer.state import State, copied
from jaxfer.task import Task

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSpec:
    """The static part of a stage's steps; runs with equal specs share one compiled program.

    Attributes:
      port: the model.
      task: the loss.
      method: the transfer method.
      leaves: (path, update rule; None: frozen) of every parameter, including those the method adds.
      live: units with a trainable leaf or an adapter; dropout acts only there.
      eval_norms: normalisation modules that keep their running statistics.
      optimizer: `adamw` or `sgd`.
      schedule: `constant`, `linear` or `cosine`.
      momentum_dtype: storage type of the first moment.
      execution: precision, rematerialisation and sharding of the units.
      accumulate: slices of a batch, one after the other.
      axis_name: the mapped axis under pmap, else None.
    """

    port: Port
    task: Task
    method: Method
    leaves: tuple[tuple[str, Leaf | None], ...]
    live: frozenset[str]
    eval_norms: frozenset[str]
    optimizer: str
    schedule: str
    momentum_dtype: str = "float32"
    execution: Execution = PLAIN
    accumulate: int = 1
    axis_name: str | None = None

    @property
    def model(self) -> Port:
        """The port with this stage's execution settings."""
        return self.port.with_axis(self.axis_name).computed(self.execution)

    @property
    def trainable(self) -> dict[str, Leaf]:
        """{path: update rule} of the trainable parameters."""
        return {path: leaf for path, leaf in self.leaves if leaf is not None}

    def tx(self, hparams: Mapping[str, jax.Array], step: jax.Array) -> optax.GradientTransformation:
        """The optimizer at this step's hyperparameters."""
        return make_tx(
            self.trainable,
            hparams,
            step,
            optimizer=self.optimizer,
            schedule_name=self.schedule,
            momentum_dtype=self.momentum_dtype,
        )


def make_state(
    spec: StepSpec, params: Any, model_state: Any, extra: Any, hparams: Mapping[str, Any], key: jax.Array
) -> State:
    """A stage's first State; every leaf is a copy, so that donating it leaves a method's anchor intact."""
    hparams = {name: jnp.asarray(value, jnp.float32) for name, value in hparams.items()}
    step = jnp.zeros((), jnp.int32)
    opt_state = spec.tx(hparams, step).init(split(params, spec.trainable)[0])
    return copied(State(step, params, model_state, opt_state, extra, hparams, key))


def make_train_step(spec: StepSpec) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """(state, batch) -> (state, {loss, grad_norm, accuracy, ...: [] float32}).

    Gradients are taken with respect to the trainable leaves alone: the frozen backward is never computed, whatever
    is clipped or logged.
    """
    port, task, method, axis = spec.model, spec.task, spec.method, spec.axis_name
    trainable_paths, groups = spec.trainable, {path: leaf.group if leaf else FROZEN for path, leaf in spec.leaves}

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)
        if axis is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        trainable, frozen = split(state.params, trainable_paths)

        def context(params, batch, key):
            def evaluate(backbone):
                return port.apply(backbone, state.model_state, batch)[0]

            return Context(evaluate, task, batch, params, state.extra, state.hparams, groups, state.step, key)

        def loss_fn(trainable, model_state, batch, key):
            params = unflatten({**frozen, **trainable})
            outputs, model_state = port.apply(
                method.view(params, state.extra),
                model_state,
                batch,
                training=Training(key=key, live=spec.live, eval_norms=spec.eval_norms),
                intercept=method.intercept(params, state.extra),
            )
            loss, metrics = method.loss(context(params, batch, key), outputs)
            scores = {name: values.mean() for name, values in task.scores(outputs, batch).items() if name != "loss"}
            return loss, ({**scores, **metrics, "loss": loss}, model_state)

        gradients = _accumulated(jax.grad(loss_fn, has_aux=True), spec.accumulate)
        grads, (metrics, model_state) = gradients(trainable, state.model_state, batch, key)
        if axis is not None:
            grads, metrics = jax.lax.pmean((grads, metrics), axis)
        updates, opt_state = spec.tx(state.hparams, state.step).update(grads, state.opt_state, trainable)
        params = unflatten({**frozen, **optax.apply_updates(trainable, updates)})
        extra = method.update(context(params, batch, key), state.extra)
        if axis is not None:  # values computed from this device's examples are averaged, kept values are not
            extra = jax.tree.map(functools.partial(_averaged, axis), extra, state.extra)
        state = state.replace(
            step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state, extra=extra
        )
        return state, {**metrics, "grad_norm": optax.tree.norm(grads)}

    return train_step


def _accumulated(gradients: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Gradients and metrics as means over `count` slices of the batch, of which one at a time is in memory.

    A slice is every `count`-th example: on each device some of those it has already. The model's state passes through
    the slices in turn.
    """
    if count == 1:
        return gradients

    def accumulate(trainable, model_state, batch, key):
        def add(carry, part):
            sums, model_state = carry
            i, batch = part
            grads, (metrics, model_state) = gradients(trainable, model_state, batch, jax.random.fold_in(key, i))
            return (jax.tree.map(jnp.add, sums, grads), model_state), metrics

        slices = {k: v.reshape(-1, count, *v.shape[1:]).swapaxes(0, 1) for k, v in batch.items()}
        zeros = jax.tree.map(jnp.zeros_like, trainable)
        (sums, model_state), metrics = jax.lax.scan(add, (zeros, model_state), (jnp.arange(count), slices))
        means = jax.tree.map(lambda x: x.mean(0), metrics)
        return jax.tree.map(lambda x: x / count, sums), (means, model_state)

    return accumulate


def make_eval_step(spec: StepSpec) -> Callable[[Any, Any, Any, Batch], dict[str, jax.Array]]:
    """(params, model_state, extra, batch) -> {metric: [batch]} and, for host metrics, `outputs` [batch, width].

    The method's `view` and `intercept` are the training step's own. Values are left per example: the host sums them
    in float64 under the padding mask, so counts are exact on any number of devices.
    """
    port, task, method = spec.model, spec.task, spec.method

    def eval_step(params: Any, model_state: Any, extra: Any, batch: Batch) -> dict[str, jax.Array]:
        outputs, _ = port.apply(
            method.view(params, extra), model_state, batch, intercept=method.intercept(params, extra)
        )
        return {**task.scores(outputs, batch), "outputs": outputs}

    return eval_step


def _averaged(axis: str, new: jax.Array, old: jax.Array) -> jax.Array:
    return new if new is old or not jnp.issubdtype(new.dtype, jnp.floating) else jax.lax.pmean(new, axis)


def split(params: Any, trainable: Mapping[str, Any]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Nested params -> ({path: trainable leaf}, {path: frozen leaf})."""
    leaves = flatten(params)
    return (
        {path: leaf for path, leaf in leaves.items() if path in trainable},
        {path: leaf for path, leaf in leaves.items() if path not in trainable},
    )
