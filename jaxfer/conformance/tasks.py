"""What every task must keep. Each property is a function (task) -> None or what is wrong.

A task meets a model at its head only, so it is tried on the kinds of heads and not on every model or method.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.conformance.training import CLASSES, tiny_stage
from jaxfer.data.split import Array, Split
from jaxfer.registry import TASKS
from jaxfer.stages import example_batch
from jaxfer.step import make_eval_step, make_train_step
from jaxfer.task import Mean, Task

# {kind of head: the tiny case that has it}
HEADS = {"pooled": "vit_cls"}


def losses_and_scores_are_means_with_a_count_per_example(name: str) -> str | None:
    task, outputs, split = _example(name)
    batch = {"label": jnp.asarray(split.labels)}
    hparams = {key: jnp.float32(value) for key, value in (task.hparams or {}).items()}
    values = {"the loss": task.loss(jnp.asarray(outputs), batch, hparams), **task.scores(jnp.asarray(outputs), batch)}
    for key, value in values.items():
        if not isinstance(value, Mean):
            return f"{key}: expected a Mean, found a {type(value).__name__}; Mean(values) makes one"
        shapes = {part.shape for part in value if part is not None}
        if shapes != {(len(outputs),)}:
            return f"{key}: totals and counts of shapes {sorted(shapes)} for {len(outputs)} examples"
    return None


def scores_hold_the_loss_and_the_monitored_metric(name: str) -> str | None:
    task, outputs, split = _example(name)
    scores = task.scores(jnp.asarray(outputs), {"label": jnp.asarray(split.labels)})
    gathered = {} if task.gathered is None else task.gathered(outputs, split)
    if "loss" not in scores:
        return "scores has no 'loss'"
    metrics = {*scores, *gathered}
    return None if task.monitor in metrics else f"monitor {task.monitor!r} is not among {', '.join(sorted(metrics))}"


def limits_are_of_its_own_hparams(name: str) -> str | None:
    task = TASKS.make(name)
    unknown = set(task.limits or {}) - set(task.hparams or {})
    return f"limits of {sorted(unknown)}, which are not hparams" if unknown else None


def a_step_through_every_kind_of_head_it_takes(name: str) -> str | None:
    """Training and evaluation, traced and not compiled."""
    for kind, case in HEADS.items():
        stage = tiny_stage(case, _classes(TASKS.make(name)), task={"name": name})
        batch, state = example_batch(stage.spec.port, stage.spec.task, stage.config.batch_size), stage.blank(0)
        after, metrics = jax.eval_shape(make_train_step(stage.spec), state, batch)
        if jax.tree.map(lambda x: (x.shape, x.dtype), after) != jax.tree.map(lambda x: (x.shape, x.dtype), state):
            return f"{kind} head: a step changes the shapes of the State"
        wrong = [key for key, value in metrics.items() if value.shape != () or value.dtype != np.float32]
        if wrong:
            return f"{kind} head: metric {wrong[0]} is not a float32 scalar"
        values = jax.eval_shape(make_eval_step(stage.spec), state.params, state.model_state, state.extra, batch)
        missing = {"loss", "collected"} - values.keys()
        if missing:
            return f"{kind} head: an evaluation has no {sorted(missing)[0]}"
    return None


PROPERTIES = (
    losses_and_scores_are_means_with_a_count_per_example,
    scores_hold_the_loss_and_the_monitored_metric,
    limits_are_of_its_own_hparams,
    a_step_through_every_kind_of_head_it_takes,
)


def _classes(task: Task) -> int:
    return 0 if task.target == "value" else CLASSES


def _example(name: str) -> tuple[Task, np.ndarray, Split]:
    """(task, outputs of six examples, a split of their labels)."""
    task = TASKS.make(name)
    outputs = np.zeros((6, task.outputs(_classes(task))), np.float32)
    labels = np.asarray([0, 1, 2, 2, 1, 0])
    kinds = {"class": labels.astype(np.int32), "value": labels.astype(np.float32)}
    labels = kinds.get(task.target, labels[:, None] == np.arange(CLASSES))
    return task, outputs, Split.whole(label=Array(labels, task.target))
