"""Predict labels and probabilities for files or texts with a run, an export, or any checkpoint with a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.config.fields import AUTO
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.exports.hf import label_names
from jaxfer.exports.inputs import Inputs, collected
from jaxfer.models.heads import SEQ2SEQ, supported
from jaxfer.models.port import Port
from jaxfer.network import Network, of_state
from jaxfer.pretrained import foreign
from jaxfer.pretrained.heads import guessed_task, head_width, loaded, network, whole_length
from jaxfer.registry import MODELS, TASKS
from jaxfer.runs.finished import open_run
from jaxfer.runs.folder import holds_run
from jaxfer.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A model ready for prediction.

    Attributes:
      network: its port and weights, head included.
      labels: name of each output.
      task: name of a file in `jaxfer/tasks/`.
      options: the task's.
      notes: remarks about its files, one line each.
    """

    network: Network
    labels: tuple[str, ...]
    task: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def port(self) -> Port:
        """The network's port."""
        return self.network.port

    @property
    def params(self) -> Any:
        """The network's parameters, nested."""
        return self.network.params

    @property
    def model_state(self) -> Any:
        """The network's running statistics."""
        return self.network.model_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """A model's answer to one input.

    Attributes:
      input: the file or the text.
      labels: the likeliest class; for multilabel, all at or above one half; () for regression.
      probabilities: {class: probability}, likeliest first; they sum to 1 except for multilabel.
      value: the predicted value of a regression.
      spans: (text, class) of the parts of the input that have one, for tagging.
      text: the part of the second text that answers the first.
      error: why there is no answer, in one line.
      expected: the label in a labelled file, several separated by semicolons; else None.
    """

    input: str
    labels: tuple[str, ...] = ()
    probabilities: dict[str, float] = dataclasses.field(default_factory=dict)
    value: float | None = None
    spans: tuple[tuple[str, str], ...] | None = None
    text: str | None = None
    error: str | None = None
    expected: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields of its JSON line; absent values are omitted."""
        names = ("input", "expected", "error", "value", "text")
        fields = {name: getattr(self, name) for name in names}
        fields = {name: value for name, value in fields.items() if value is not None}
        if self.spans is not None:
            fields["spans"] = [{"text": text, "class": name} for text, name in self.spans]
        if self.probabilities:
            fields |= {"labels": list(self.labels), "probabilities": self.probabilities}
        return fields


def load_export(folder: str | epath.Path) -> Model:
    """Loads an export, or any checkpoint or adapter with a head, from a folder or by its Hub name.

    Raises:
      InputError: no such checkpoint, an unsupported one, or one without a head.
    """
    files.opened(folder)
    checkpoint = foreign.opened(str(folder), AUTO, {})
    family, options = checkpoint.layout.family, dict(checkpoint.options)
    if (checkpoint.other_head or "").endswith(foreign.WRITES) and SEQ2SEQ in supported(MODELS.get(family)):
        port = MODELS.make(family, outputs=0, head=SEQ2SEQ, **options)
        params, model_state = loaded(checkpoint, port)
        seq2seq = Network(port=port, params=params, model_state=model_state)
        return Model(network=seq2seq, labels=(), task="seq2seq", notes=checkpoint.notes)
    outputs = head_width(checkpoint)
    if length := whole_length(checkpoint):
        options["max_length"] = length
    port = MODELS.make(family, outputs=outputs, **options)
    labels = checkpoint.labels or label_names((), outputs)
    return Model(
        network=network(checkpoint, port),
        labels=labels,
        task=guessed_task(checkpoint),
        notes=checkpoint.notes,
    )


def load_model(source: str | epath.Path) -> Model:
    """Loads the merged model of a finished run, or an export or adapter."""
    folder = files.opened(source).expanduser()
    if not holds_run(folder):
        return load_export(source)  # it also reports a missing folder
    finished = open_run(folder)
    trained, task = of_state(finished.stage, finished.state), finished.experiment.task
    labels = label_names(finished.classes, trained.port.outputs)
    return Model(network=trained, labels=labels, task=task.name, options=dict(task.options))


def predict(
    source: str | epath.Path | Model, inputs: Any, *, text: bool = False, batch_size: int = 32
) -> list[Prediction]:
    """Predicts an answer for each input, in order.

    Args:
      source: a finished run, an export, a checkpoint with a head, or a loaded model.
      inputs: one input or a list: image files, uint8 arrays [h, w, channels] or Pillow images; for a text model,
        files with one text per line, the two of a pair separated by a tab; for a model of sounds, .wav files or pairs
        of samples, float [n], and their rate in Hz.
      text: whether the inputs are the texts themselves, or pairs of them.
      batch_size: inputs per batch.

    Raises:
      InputError: no such model, or inputs of the wrong kind. An unreadable file is reported in its answer instead.
    """
    if batch_size < 1:
        raise InputError(f"batch_size: expected at least 1, found {batch_size}")
    model = source if isinstance(source, Model) else load_model(source)
    return answers(model, collected(inputs, model.port.encoding, text=text), batch_size)[0]


def answers(model: Model, inputs: Inputs, batch_size: int) -> tuple[list[Prediction], list[Any]]:
    """(an answer to each input, what the task collects of each readable input)."""
    good = [i for i in range(len(inputs.names)) if i not in inputs.errors]
    predictions = {i: Prediction(input=inputs.names[i], error=error) for i, error in inputs.errors.items()}
    task, rows = TASKS.make(model.task, **model.options), []
    if task.answer is None:
        raise InputError(f"task {model.task!r} has no answers to print; measure the run with `jaxfer eval`")
    if good:
        column = task.phrase(inputs.column)
        rows = _collected(model, task, Split.whole(**{model.port.encoding.column: column}), min(batch_size, len(good)))
        for place, (i, row) in enumerate(zip(good, rows, strict=True)):
            predictions[i] = _answer(model, task, inputs.names[i], row, column[place])
    return [predictions[i] for i in range(len(inputs.names))], rows


def _collected(model: Model, task: Task, split: Split, batch_size: int) -> list[Any]:
    """What the task collects of each example."""
    network = model.network
    apply = jax.jit(lambda arrays, batch: _found(task, network.with_arrays(*arrays), batch))
    read = task.expanded(split, model.port.encodings)
    feed, rows = Feed(split=read, encodings=model.port.encodings, targets=task.targets), []
    for batch in eval_batches(feed, batch_size=batch_size):
        real = int(batch.pop("mask").sum())
        values = jax.device_get(apply(network.arrays, batch))
        rows += [jax.tree.map(lambda x, i=i: x[i], values) for i in range(real)]
    if task.expand is None and task.spell is None:
        return rows
    merged = task.merge(jax.tree.map(lambda *each: np.stack(each), *rows), read)
    merged = merged if task.spell is None else task.spell(merged, model.port.encodings)
    return [jax.tree.map(lambda x, i=i: x[i], merged) for i in range(len(split))]


def _found(task: Task, network: Network, batch: Mapping[str, Any]) -> Any:
    """What the task collects of a batch, and what it writes."""
    collected = task.collect(network(batch).outputs, batch)
    if task.decode is None:
        return collected
    params, intercept = network.seen()
    return collected | task.decode(network.port, params, network.model_state, intercept, batch)


def _answer(model: Model, task: Task, name: str, row: Any, example: Any) -> Prediction:
    for values in jax.tree.leaves(row):
        if not isinstance(values, str) and not np.isfinite(values).all():
            shown = ", ".join(f"{value:g}" for value in values.ravel()[:4])
            fix = "check the input, or give a checkpoint that computes finite ones"
            return Prediction(input=name, error=f"expected finite outputs for {name!r}, found {shown}; {fix}")
    return Prediction(input=name, **task.answer(row, model.labels, example)._asdict())
