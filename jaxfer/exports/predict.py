"""Labels and probabilities for files or texts, from a run, its export, or any checkpoint with a head."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.config.fields import AUTO
from jaxfer.data.encodings.image import decode, fit
from jaxfer.data.encodings.spec import TextPreprocessing
from jaxfer.data.encodings.text import texts
from jaxfer.data.loader import eval_batches
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.exports.hf import PROBLEMS, label_names
from jaxfer.models.port import Port
from jaxfer.pretrained import carrying, foreign
from jaxfer.pretrained.formats import reading
from jaxfer.registry import MODELS
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import open_run

# By `problem_type`; transformers takes one output without any for a regression.
KINDS = {problem: task for task, problem in PROBLEMS.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A model that answers.

    Attributes:
      port: its family, size and preprocessing.
      params: nested, head included.
      model_state: running statistics.
      labels: name of each output.
      task: `classification`, `multilabel` or `regression`.
    """

    port: Port
    params: Any
    model_state: Any
    labels: tuple[str, ...]
    task: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of one input.

    Attributes:
      input: the file or the text.
      labels: the likeliest class alone; of a set, those at or above one half; () for regression.
      probabilities: {class: probability}, likeliest first; they sum to 1 except for sets.
      value: of a regression.
      error: why there is none of this, in one line.
    """

    input: str
    labels: tuple[str, ...] = ()
    probabilities: dict[str, float] = dataclasses.field(default_factory=dict)
    value: float | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON line: only what there is."""
        found = {"input": self.input, "error": self.error, "value": self.value}
        found = {name: value for name, value in found.items() if value is not None}
        if self.probabilities:
            found |= {"labels": list(self.labels), "probabilities": self.probabilities}
        return found


def load_export(folder: str | epath.Path) -> Model:
    """The model in an exported folder, or in any checkpoint or adapter with a head: a folder, or a name on the Hub.

    Raises:
      InputError: no checkpoint there, one that is not read, or one without a head.
    """
    checkpoint = foreign.opened(str(folder), AUTO, {})
    outputs = checkpoint.outputs
    if not outputs:
        raise InputError(f"{folder}: the checkpoint has no head, so nothing to predict with; `jaxfer run` trains one")
    if len(checkpoint.labels) not in (0, outputs):
        raise InputError(f"{folder}: expected {outputs} labels, one an output, found {len(checkpoint.labels)}")
    port = MODELS.make(checkpoint.layout.family, outputs=outputs, **checkpoint.options)
    shapes = jax.eval_shape(port.init, jax.random.key(0), port.preprocessing.example(2))
    leaves = flatten({"params": shapes[0], **shapes[1]})
    found = carrying.carry(checkpoint, port, leaves, reset=[], differs=[])
    if found.fresh:
        raise InputError(f"{folder}: the checkpoint has no head ({found.fresh[0]} is missing); `jaxfer run` trains one")
    kind = KINDS.get(checkpoint.problem_type, "regression" if outputs == 1 else "classification")
    tree = unflatten(flatten({"params": found.params, **found.model_state}))
    labels = checkpoint.labels or label_names((), outputs)
    return Model(port=port, params=tree.pop("params"), model_state=tree, labels=labels, task=kind)


def load_model(source: str | epath.Path) -> Model:
    """The model of a finished run, merged, or of an export or an adapter."""
    folder = files.opened(os.path.expanduser(source))
    if not (folder / "config.json").exists() or "stages" not in reading.read_json(folder / "config.json"):
        return load_export(source)  # it says what is wrong where there is nothing at all
    finished = open_run(folder)
    params, model_state = finished.stage.leave(finished.state)
    port = finished.stage.spec.port
    labels = label_names(finished.classes, port.outputs)
    return Model(port=port, params=params, model_state=model_state, labels=labels, task=finished.experiment.task.name)


def predict(
    source: str | epath.Path | Model, inputs: Sequence[str], *, text: bool = False, batch_size: int = 32
) -> list[Prediction]:
    """Answers in the order of the inputs.

    Args:
      source: a finished run, an export, a checkpoint with a head, or what `load_export` gave.
      inputs: image files; for a model of texts files with a text a line, a pair's two parted by a tab.
      text: the inputs are the texts themselves.
      batch_size: inputs at a time.

    Raises:
      InputError: no model there, or inputs of another kind than the model's. A file that can't be read is no reason:
        its answer says so.
    """
    model = source if isinstance(source, Model) else load_model(source)
    reads_text = isinstance(model.port.preprocessing, TextPreprocessing)
    if text and not reads_text:
        raise InputError("--text: the model reads images; give image files")
    found = {}
    if reads_text:
        lines = list(inputs) if text else [line for name in inputs for line in _lines(name)]
        names = [line for line in lines if isinstance(line, str)]
        failed = {i: line for i, line in enumerate(lines) if not isinstance(line, str)}
        fetch = _pairs(names)
    else:
        lines, failed = list(inputs), {}
        for i, name in enumerate(inputs):
            try:
                fit(decode(name), model.port.preprocessing)
            except InputError as error:
                failed[i] = Prediction(input=str(name), error=str(error))
        names = [str(name) for i, name in enumerate(inputs) if i not in failed]
        fetch = Decoded(tuple(names))
    good = [i for i in range(len(lines)) if i not in failed]
    if good:
        split = Split(labels=np.zeros(len(good), np.int32), fetch=fetch)
        for i, row in zip(good, _outputs(model, split, min(batch_size, len(good))), strict=True):
            found[i] = _answer(model, str(lines[i]), row)
    return [failed.get(i) or found[i] for i in range(len(lines))]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Decoded:
    """Fetches by decoding a file."""

    names: tuple[str, ...]

    def __call__(self, row: int) -> np.ndarray:
        return decode(self.names[row])


def _outputs(model: Model, split: Split, batch_size: int) -> np.ndarray:
    """[inputs, outputs] float32."""
    apply = jax.jit(lambda params, state, batch: model.port.apply(params, state, batch)[0])
    rows = []
    for batch in eval_batches(split, batch_size=batch_size, preprocessing=model.port.preprocessing):
        inputs = {name: batch[name] for name in model.port.inputs}
        rows.append(np.asarray(apply(model.params, model.model_state, inputs))[batch["mask"].astype(bool)])
    return np.concatenate(rows).astype(np.float32)


def _answer(model: Model, name: str, row: np.ndarray) -> Prediction:
    if model.task == "regression":
        return Prediction(input=name, value=float(row[0]))
    row = row.astype(np.float64)
    if model.task == "multilabel":
        chances = 1 / (1 + np.exp(-row))
        chosen = tuple(label for label, chance in zip(model.labels, chances, strict=True) if chance >= 0.5)
    else:
        chances = np.exp(row - row.max())
        chances /= chances.sum()
        chosen = (model.labels[int(row.argmax())],)
    order = np.argsort(-chances, kind="stable")
    return Prediction(input=name, labels=chosen, probabilities={model.labels[i]: float(chances[i]) for i in order})


def _lines(name: str) -> list[str | Prediction]:
    """The texts in a file; where it can't be read, an answer that says so."""
    try:
        content = Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        return [Prediction(input=str(name), error=f"expected a text file, found {str(name)!r} ({reason})")]
    return [line for line in content.splitlines() if line.strip()]


def _pairs(lines: Sequence[str]) -> Any:
    parts = [line.split("\t") for line in lines]
    counts = {len(part) for part in parts}
    if counts - {1, 2} or len(counts) > 1:
        raise InputError("expected a text a line, or in every line two parted by a tab; found both or more")
    return texts(*(tuple(column) for column in zip(*parts, strict=True)))
