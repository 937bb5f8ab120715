"""Task: what outputs mean. Its head, targets, losses, metrics and answers; one file each in `jaxfer/tasks/`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data.encoding import Draw, Encoding, Fields
from jaxfer.data.split import INPUTS, Column, Split
from jaxfer.errors import InputError, nearest

Batch = Mapping[str, jax.Array]
Hparams = Mapping[str, jax.Array]
Shapes = dict[str, jax.ShapeDtypeStruct]


class Mean(NamedTuple):
    """A mean over examples, or over parts of them such as tokens, before it is taken.

    Means of slices, devices and batches are never averaged: totals and counts are summed, and divided once. An average
    of averages is wrong as soon as the counts differ.

    Attributes:
      total: [batch], sum over the parts of each example.
      count: [batch], number of these parts, float32; None: each example is one part, which costs nothing to count.
    """

    total: jax.Array
    count: jax.Array | None = None

    @classmethod
    def over(cls, values: jax.Array, kept: jax.Array) -> Mean:
        """[batch, parts] values of which those where `kept` is true count."""
        kept = kept.astype(jnp.float32)
        return cls((values * kept).sum(-1), kept.sum(-1))

    def parts(self) -> jax.Array | None:
        """[]: number of parts of all examples; None where each is one."""
        return None if self.count is None else self.count.sum()

    def value(self) -> jax.Array:
        """[]: the mean; 0 of nothing."""
        if self.count is None:
            return self.total.mean()
        return self.total.sum() / jnp.where(self.parts() > 0, self.parts(), 1)

    @staticmethod
    def of(means: Sequence[Mean]) -> float:
        """The mean over batches that are on the host, in float64."""
        total = np.concatenate([mean.total for mean in means]).astype(np.float64)
        if means[0].count is None:
            return float(total.mean())
        count = np.concatenate([mean.count for mean in means]).sum(dtype=np.float64)
        return float(total.sum() / count) if count else 0.0


class Answer(NamedTuple):
    """What `predict` prints for one input.

    Attributes:
      labels: the chosen classes; () where the answer is a number or a text.
      probabilities: {class: probability}, likeliest first.
      value: the predicted number.
      spans: (text, class) of each part of the input that has one.
      text: the part of the input that answers a question.
    """

    labels: tuple[str, ...] = ()
    probabilities: Mapping[str, float] = {}
    value: float | None = None
    spans: tuple[tuple[str, str], ...] | None = None
    text: str | None = None


def ranked(chances: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """{class: probability}, likeliest first."""
    return {classes[i]: float(chances[i]) for i in np.argsort(-chances, kind="stable")}


def labels(split: Split, rows: np.ndarray, encoded: Fields, draw: Draw | None) -> Fields:
    """The targets of most tasks: the column `label`; none for data without one, whose answers are asked for."""
    return {} if split.labels is None else {"label": split.labels[rows]}


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A loss and its metrics. Compared by identity, since compiled programs are shared between runs of one task.

    Attributes:
      outputs: number of classes of the data (0: real targets) -> width of the head; 0 for a head as wide as the model
        says, `vocab` or `embedding`.
      head: kind of head that it needs, one of `jaxfer.models.heads`.
      target: kind of the column that it learns, in its name too where that isn't `label`; empty: none. With none, or an
        input's, it reads no labels.
      shapes: (examples, width of the head, shapes of the encoded fields) -> {field: shape} of its targets.
      targets: on the host: (split, rows [b], encoded fields, draw) -> {field: [b, ...]}; `draw` is None in evaluation,
        and then the same rows give the same targets. A module's own function, so that it can be pickled.
      of_labels: whether `targets` reads the split's labels alone, so that stored features do without the inputs.
      expand: (split, the model's encodings) -> the split that the model reads in its place, where one example becomes
        several: windows of a long text. Steps, batches and `loss` then count these. None: read as they are.
      merge: on the host: (collected of the expanded split, that split) -> collected of the split's own examples.
      loss: (outputs [batch, ...], batch, hparams) -> Mean, as trained on; None: the method brings the loss.
      weights: (batch, hparams) -> [batch]: what `loss` counts where its examples weigh differently; None: what the
        `loss` of `scores` counts.
      scores: (outputs, batch) -> {metric: Mean}; `loss` is one of them, if there is one, without `weights`.
      collect: on the device: (outputs, batch) -> arrays [batch, ...] that `gathered` and `answer` need: chosen classes
        or tokens rather than all logits, since these are what evaluation moves to the host and keeps.
      decode: on the device: (port, params, model_state, a method's interceptor or None, batch) -> arrays [batch, ...]
        that join what is collected: texts that are written, token by token. Evaluation asks for them where `decodes`,
        `predict` always. None: outputs say all.
      decodes: whether evaluation needs them.
      spell: on the host: (collected, the model's encodings) -> collected, token ids as texts; None: as it is.
      gathered: on the host: (collected arrays of the whole split, split) -> {metric: value} for what a mean can't
        express; None where there is nothing of the kind.
      counts: on the host: (collected arrays of the whole split, split) -> what `report` needs of them, as JSON; small,
        since checkpoints keep it. None: no report.
      report: (counts, names of the classes) -> what result.json says of a split beside its metrics, as JSON.
      answer: (collected of one example, names of the classes, the example's input) -> what `predict` prints; None where
        it has nothing to print.
      apart: whether the two texts of a pair are read each on its own (`TextEncoding.apart`): outputs [batch, 2, ...].
      whole_batch: whether the loss of an example depends on the others of its batch, so that it can't be split.
      words: whether targets need to know which word a token is part of (`TextEncoding.words`).
      phrase: what `predict` makes of a column of texts before the model reads it.
      monitor: the validation metric that picks the best checkpoint, unless `config.monitor` names another.
      maximize: whether more of it is better.
      metrics: {metric: whether more of it is better} of the others that `config.monitor` may name.
      for_classes: {metric: (fewest, most) classes with which there is such a metric}; None: any number.
      hparams: {name: default}: strengths that a config may set and a sweep may vary without compiling again.
      limits: {hparam: (least, below)} of what a config may set it to; one that is absent may be any finite number.
      unread: {hparam of the task under other options: the option that reads it}; a config that sets it is refused.
    """

    outputs: Callable[[int], int]
    target: str
    head: str = "pooled"
    shapes: Callable[[int, int, Shapes], Shapes]
    loss: Callable[[jax.Array, Batch, Hparams], Mean] | None
    scores: Callable[[jax.Array, Batch], dict[str, Mean]]
    targets: Callable[[Split, np.ndarray, Fields, Draw | None], Fields] = labels
    of_labels: bool = False
    expand: Callable[[Split, Sequence[Encoding]], Split] | None = None
    merge: Callable[[Any, Split], Any] = lambda collected, expanded: collected
    weights: Callable[[Batch, Hparams], jax.Array] | None = None
    collect: Callable[[jax.Array, Batch], Any] = lambda outputs, batch: outputs
    decode: Callable[[Any, Any, Any, Any, Batch], Any] | None = None
    decodes: bool = False
    spell: Callable[[Any, Sequence[Encoding]], Any] | None = None
    gathered: Callable[[Any, Split], dict[str, float]] | None = None
    counts: Callable[[Any, Split], dict[str, Any]] | None = None
    report: Callable[[Any, Sequence[str]], dict[str, Any]] | None = None
    answer: Callable[[Any, Sequence[str], Any], Answer] | None = None
    apart: bool = False
    whole_batch: bool = False
    words: bool = False
    phrase: Callable[[Column], Column] = lambda column: column
    monitor: str = "loss"
    maximize: bool = False
    metrics: Mapping[str, bool] | None = None
    for_classes: Mapping[str, tuple[int, int | None]] | None = None
    hparams: Mapping[str, float] | None = None
    limits: Mapping[str, tuple[float, float]] | None = None
    unread: Mapping[str, str] | None = None

    @property
    def labelled(self) -> bool:
        """Whether it learns from labels; else from inputs alone, so that every example can be trained on."""
        return bool(self.target) and self.target not in INPUTS

    def trained(self, outputs: jax.Array, batch: Batch, hparams: Hparams) -> dict[str, Mean]:
        """The scores of a training batch, whose `loss` counts what is trained on: slices and devices weigh by it."""
        scores = self.scores(outputs, batch)
        if self.weights is None:
            return scores
        return {**scores, "loss": scores["loss"]._replace(count=self.weights(batch, hparams))}

    def expanded(self, split: Split, encodings: Sequence[Encoding]) -> Split:
        """The split that the model reads."""
        return split if self.expand is None else self.expand(split, encodings)

    def watching(self, name: str, monitor: str, mode: str) -> Task:
        """The task with the monitored metric of a config.

        Args:
          name: of the task's file.
          monitor: `config.monitor`, a metric; empty: the task's own.
          mode: `config.monitor_mode`, `max`, `min`, or `auto`: as the task says of the metric.

        Raises:
          InputError: the task has no such metric.
        """
        return _watching(self, name, monitor, mode)


@functools.lru_cache(maxsize=256)  # equal settings give the same task, since runs of one task share programs
def _watching(task: Task, name: str, monitor: str, mode: str) -> Task:
    known = {**(task.metrics or {}), **({} if task.loss is None else {"loss": False}), task.monitor: task.maximize}
    monitor = monitor or task.monitor
    if monitor not in known:
        raise InputError(f"config.monitor: task {name!r} has no metric {monitor!r}{nearest(monitor, known)}")
    maximize = known[monitor] if mode == "auto" else mode == "max"
    if (monitor, maximize) == (task.monitor, task.maximize):
        return task
    return replace(task, monitor=monitor, maximize=maximize)


def score(task: Task, outputs: np.ndarray, split: Split) -> dict[str, float]:
    """{metric: value} of outputs [n, width] float32 on a split, as `evaluate_split` scores a model's."""
    outputs = np.asarray(outputs, np.float32)
    means = jax.device_get(task.scores(jnp.asarray(outputs), {"label": jnp.asarray(split.labels)}))
    metrics = {name: Mean.of([mean]) for name, mean in means.items()}
    return metrics | (task.gathered(outputs, split) if task.gathered is not None else {})
