"""Score a model on a labelled file: an answer to each row, and the task's metrics over all rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from jaxfer import config, files
from jaxfer.data.encodings.text import Texts
from jaxfer.data.split import GROUP, Array, Dataset, Split
from jaxfer.errors import InputError, nearest
from jaxfer.exports.inputs import FILES, Inputs
from jaxfer.exports.predict import Model, Prediction, answers, load_model
from jaxfer.pretrained import located
from jaxfer.registry import SOURCES, TASKS
from jaxfer.runs import seal
from jaxfer.runs.folder import holds_run
from jaxfer.task import score as task_score

# The kind of labels for each task: `data.target` of the source `table`.
TARGETS = {"classification": "class", "multilabel": "labels", "regression": "value"}
SETTLED = ("path", "target", "test_fraction")  # options of `table` fixed by the file and the model
FILE = "file"  # the column of images or sounds, relative to the table's folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """The result of scoring a file.

    Attributes:
      metrics: {metric: value} over the rows with an answer; empty without any.
      predictions: an answer to each row, with the expected label.
      notes: assumptions and omissions, one line each.
    """

    metrics: dict[str, float]
    predictions: tuple[Prediction, ...]
    notes: tuple[str, ...]


def score(
    source: str | epath.Path,
    file: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    batch_size: int = 32,
) -> Scored:
    """Predicts each row of a table and compares the answer with the row's label.

    Args:
      source: a finished run, an export, or a checkpoint with a head.
      file: .csv, .tsv or .jsonl for the data source `table`, with the columns `text` and `label`, or `file` and `label`
        for a model of images or sounds.
      overrides: {"data.x": value} for other columns (`data.text`, `data.text_pair`, `data.label`) and other options of
        that source.
      batch_size: rows per batch.

    Raises:
      InputError: no such model or file, unknown labels, or a run whose test split is sealed, as the file may hold it.
    """
    overrides = overrides or {}
    config.check_overrides(overrides)
    try:
        _check_seal(source)
    except InputError as error:
        raise InputError(f"--labelled: {file} may hold the test split; {error}") from None
    model = load_model(source)
    data = _table(model, file, overrides)
    split = data.splits["train"]  # a single file is entirely `train`
    labels, notes = _labels(model, data, file)
    predicted, outputs = answers(model, _inputs(model, split.columns["text"], Path(file).parent), batch_size)
    answered = np.asarray([answer.error is None for answer in predicted])
    read = [row for row in outputs if np.isfinite(row).all()]  # `outputs` omits unreadable rows
    groups = None if split.groups is None else split.groups[answered]
    metrics = _metrics(model.task, np.stack(read), labels[answered], groups) if answered.any() else {}
    if not answered.all():
        notes = (*notes, f"{int((~answered).sum())} of {len(predicted)} rows have no answer and are not scored")
    predictions = tuple(
        dataclasses.replace(answer, expected=_spelled(model, label))
        for answer, label in zip(predicted, labels, strict=True)
    )
    return Scored(metrics=metrics, predictions=predictions, notes=(*data.notes, *notes))


def _check_seal(source: str | epath.Path) -> None:
    folder = files.opened(source).expanduser()
    if holds_run(folder):
        seal.check(folder)
    elif folder.exists():
        seal.check_export(folder, located.located_files(str(source))[0].marker.get("run"))


def _table(model: Model, file: str | Path, overrides: Mapping[str, Any]) -> Dataset:
    """Reads the file with the data source `table`."""
    if model.task not in TARGETS:
        raise InputError(f"--labelled: task {model.task!r} has no labelled files; known: {', '.join(TARGETS)}")
    encoding = model.port.encoding
    if encoding.column != "text" and encoding.column not in FILES:
        raise InputError(
            f"--labelled: the model reads {encoding.noun}, which no labelled file names; use `jaxfer eval`"
        )
    if not Path(file).expanduser().is_file():
        raise InputError(f"--labelled: expected a .csv, .tsv or .jsonl file, found no file at {str(file)!r}")
    known = sorted(f"data.{name}" for name in SOURCES.schema("table") if name not in SETTLED)
    for name in overrides:
        if name not in known:
            raise InputError(f"config.{name}: not an option of a labelled file{nearest(name, known)}")
    settled = {"data.source": "table", "data.path": str(file), "data.target": TARGETS[model.task]}
    if encoding.column in FILES:
        settled["data.text"] = FILE
    options = config.resolve(config.override(config.base(), {**settled, **overrides})).source.options
    return SOURCES.make("table", **dict(options))


def _inputs(model: Model, column: Texts, folder: Path) -> Inputs:
    encoding = model.port.encoding
    if encoding.column == "text":
        names = column.first if column.second is None else map("\t".join, zip(column.first, column.second, strict=True))
        return Inputs(names=tuple(names), errors={}, column=column)
    if column.second is not None:
        raise InputError(f"config.data.text_pair: the model reads {encoding.noun}, one a row; leave it out")
    inputs = FILES[encoding.column]([folder / name for name in column.first], encoding)
    return dataclasses.replace(inputs, names=column.first)


def _labels(model: Model, data: Dataset, file: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """(labels of the rows in the order of the model's outputs, notes)."""
    labels = data.splits["train"].labels
    if model.task == "regression":
        return labels, ()
    places, notes = _places(model.labels, data.classes, file)
    if model.task == "multilabel":
        wide = np.zeros((len(labels), len(model.labels)), bool)
        wide[:, places] = labels
        return wide, notes
    return np.asarray(places, np.int32)[labels], notes


def _places(labels: Sequence[str], classes: Sequence[str], file: str | Path) -> tuple[list[int], tuple[str, ...]]:
    """(the model's output for each class of the file, notes): matched by name, or by number if all are numbers."""
    unknown = [name for name in classes if name not in labels]
    if not unknown:
        return [labels.index(name) for name in classes], ()
    if all(name.isdecimal() and int(name) < len(labels) for name in classes):
        pairs = ", ".join(f"{name}={labels[int(name)]}" for name in classes[:8])
        return [int(name) for name in classes], (f"the file's labels are read as class numbers: {pairs}",)
    tail = f"{nearest(unknown[0], labels)}; correct it, or number the classes from 0"
    raise InputError(f"{file}: the model has no class {unknown[0]!r}{tail}")


def _metrics(task_name: str, outputs: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> dict[str, float]:
    task = TASKS.make(task_name)
    split = Split.whole(label=Array(labels, task.target))
    return task_score(task, outputs, split if groups is None else split.with_column(GROUP, Array(groups, GROUP)))


def _spelled(model: Model, label: Any) -> str:
    if model.task == "regression":
        return f"{label:g}"
    if model.task == "multilabel":
        return ";".join(name for name, has in zip(model.labels, label, strict=True) if has)
    return model.labels[label]
