"""What every task must keep. Each property is a function (task) -> None or what is wrong.

A task meets a model at its head only, so it is tried on the kinds of heads and not on every model or method.
"""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.conformance.training import CLASSES, batches, tiny_stage
from jaxfer.data.sources.conll import Tags
from jaxfer.data.sources.csv_series import Windows
from jaxfer.data.split import Array, Split
from jaxfer.registry import TASKS
from jaxfer.stages import Stage
from jaxfer.step import make_eval_step, make_train_step
from jaxfer.task import Mean, Task

# {kind of head: the tiny case that has it}
HEADS = {
    "pooled": "vit_cls",
    "dense": "vit_cls",
    "token": "bert_mean",
    "vocab": "bert_mean",
    "next": "decoder_llama",
    "embedding": "bert_mean",
    "forecast": "patchtst",
    "pair": "clip",
    "seq2seq": "t5",
}


def losses_and_scores_are_means_with_a_count_per_example(name: str) -> str | None:
    task, outputs, batch, _ = _example(name)
    hparams = {key: jnp.float32(value) for key, value in (task.hparams or {}).items()}
    loss = {} if task.loss is None else {"the loss": task.loss(outputs, batch, hparams)}
    values = {**loss, **task.scores(outputs, batch)}
    for key, value in values.items():
        if not isinstance(value, Mean):
            return f"{key}: expected a Mean, found a {type(value).__name__}; Mean(values) makes one"
        shapes = {part.shape for part in value if part is not None}
        if shapes != {(len(outputs),)}:
            return f"{key}: totals and counts of shapes {sorted(shapes)} for {len(outputs)} examples"
    return None


def scores_hold_the_loss_and_the_monitored_metric(name: str) -> str | None:
    task, outputs, batch, split = _example(name)
    scores = task.scores(outputs, batch)
    if "loss" not in scores and task.loss is not None:
        return "scores has no 'loss'"
    if task.expand is not None:  # what it gathers is of whole texts, and needs a tokenizer
        return None
    collected = jax.device_get(task.collect(outputs, batch))
    gathered = {} if task.gathered is None else task.gathered(collected, split)
    metrics = {*scores, *gathered}
    depends = {*(task.for_classes or {}), "worst_group_accuracy"}  # on the data
    for what, names in (("monitor", [task.monitor]), ("of metrics", task.metrics or {})):
        for name in names:
            if name not in metrics and name not in depends:
                return f"{what} {name!r} is not among {', '.join(sorted(metrics))}"
    return None


def a_report_is_json(name: str) -> str | None:
    """Its counts go into every checkpoint, the report into result.json."""
    task = TASKS.make(name)
    if task.counts is None and task.report is None:
        return None
    if task.counts is None or task.report is None or task.gathered is None:
        return "expected counts, report and gathered together, or neither counts nor report"
    _, outputs, batch, split = _example(name)
    try:
        counts = json.loads(json.dumps(task.counts(jax.device_get(task.collect(outputs, batch)), split)))
        json.dumps(task.report(counts, [f"class {i}" for i in range(CLASSES)]))
    except TypeError as error:
        return f"a report that is not JSON: {error}"
    return None


def limits_are_of_its_own_hparams(name: str) -> str | None:
    task = TASKS.make(name)
    unknown = set(task.limits or {}) - set(task.hparams or {})
    return f"limits of {sorted(unknown)}, which are not hparams" if unknown else None


def a_step_through_its_kind_of_head(name: str) -> str | None:
    """Training and evaluation, traced and not compiled."""
    stage = _stage(name)
    batch, state = stage.example(), stage.blank(0)
    after, metrics = jax.eval_shape(make_train_step(stage.spec), state, batch)
    if jax.tree.map(lambda x: (x.shape, x.dtype), after) != jax.tree.map(lambda x: (x.shape, x.dtype), state):
        return "a step changes the shapes of the State"
    wrong = [key for key, value in metrics.items() if value.shape != () or value.dtype != np.float32]
    if wrong:
        return f"metric {wrong[0]} is not a float32 scalar"
    values = jax.eval_shape(make_eval_step(stage.spec), state.params, state.model_state, state.extra, batch)
    missing = {"collected", *(() if stage.spec.task.loss is None else ("loss",))} - values.keys()
    return f"an evaluation has no {sorted(missing)[0]}" if missing else None


PROPERTIES = (
    losses_and_scores_are_means_with_a_count_per_example,
    scores_hold_the_loss_and_the_monitored_metric,
    a_report_is_json,
    limits_are_of_its_own_hparams,
    a_step_through_its_kind_of_head,
)


def _classes(task: Task) -> int:
    return 0 if task.target in ("value", "spans", "future") else CLASSES


def _stage(name: str) -> Stage:
    """The tiny case with the kind of head that the task needs."""
    task = TASKS.make(name)
    fields = {"method": "simclr"} if task.loss is None else {}
    return tiny_stage(HEADS[task.head], _classes(task), task={"name": name}, **fields)


def _example(name: str) -> tuple[Task, jax.Array, dict[str, jax.Array], Split]:
    """(task, its head's outputs of a batch, that batch, a split of as many examples)."""
    stage = _stage(name)
    spec, n = stage.spec, stage.config.batch_size
    params, model_state, _ = stage.shapes
    batch = jax.tree.map(jnp.asarray, batches(stage, 1)[0])
    outputs = jax.eval_shape(lambda p, s: spec.port.apply(p, s, batch)[0], params, model_state)
    labels = np.arange(n) % CLASSES
    kinds = {
        "class": Array(labels.astype(np.int32), "class"),
        "value": Array(labels.astype(np.float32), "value"),
        "classes": Array(labels[:, None] == np.arange(CLASSES), "classes"),
    }
    batch |= {"label": jnp.asarray(kinds[spec.task.target].values)} if spec.task.target in kinds else {}
    columns = {"label": kinds.get(spec.task.target, kinds["class"])}
    if spec.task.target == "tags":
        columns["tags"] = Tags(("O", "B-x", "I-x"), (np.zeros(spec.port.encoding.max_length, np.int32),) * n)
    if spec.task.target == "future":
        (length, channels), horizon = batch["history"].shape[1:], batch["future"].shape[1]
        values, starts = np.zeros((length + horizon, channels), np.float32), np.zeros(n, np.int64)
        columns["series"] = Windows(values, starts, length, "series")
        columns["future"] = Windows(values, starts + length, horizon, "future", naive=(1.0,) * channels)
    return TASKS.make(name), jnp.zeros(outputs.shape, outputs.dtype), batch, Split.whole(**columns)
