"""Predictions of a classifier on a split, as csv: a row for each example, the most confident mistakes first."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence

import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.data.split import Split
from jaxfer.errors import InputError

LISTED = 20  # classes up to which there is a column for the probability of each
TASK = "classification"


def destination(path: str | os.PathLike) -> epath.Path:
    """Where the table is to be written.

    Raises:
      InputError: another suffix than .csv, or no such folder.
    """
    place = epath.Path(os.path.expanduser(path))
    if place.suffix != ".csv":  # a name such as result.json would be the end of a run's own file
        raise InputError(f"predictions: expected a file named .csv, found {str(path)!r}; rename it")
    if not files.remote(place) and (place.is_dir() or not place.parent.is_dir()):
        raise InputError(f"predictions: expected a file in a folder that exists, found {str(path)!r}; make its folder")
    return place


def check_task(task: str) -> None:
    """`InputError` for a task without probabilities of classes that exclude each other."""
    if task != TASK:
        raise InputError(f"predictions: expected the task {TASK!r}, found {task!r}; use `jaxfer predict` on its files")


def write(place: epath.Path, logits: np.ndarray, split: Split, classes: Sequence[str]) -> None:
    """Writes `table` atomically."""
    # Linux keeps names as bytes: those of files are written as they are.
    files.write_bytes(place, table(logits, split, classes).encode(errors="surrogateescape"))


def table(logits: np.ndarray, split: Split, classes: Sequence[str]) -> str:
    """The csv of logits [n, classes]; right answers come after the mistakes, the least confident first.

    Columns:
      mistake: 1, 2, 3, ... from the most confident one; empty for a right answer.
      row: the example's place in the source's split, from 0; of `val` drawn from train, in train.
      input: its file or text, where the source has one.
      group: where the split has groups.
      label, predicted: names of classes.
      probability: of the predicted class.
      loss: negative log-likelihood of the label, in nats.
      p(CLASS): the probability of each class, where there are at most 20.
    """
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    rows, labels, predicted = np.arange(len(log)), split.labels, log.argmax(-1)
    wrong, loss = predicted != labels, -log[rows, labels]
    sure = log[rows, predicted]
    order = np.lexsort((np.where(wrong, -sure, -loss), ~wrong))
    column = split.input[1]
    of_row = {
        "mistake": lambda place, i: place + 1 if wrong[i] else "",
        "row": lambda _, i: int(split.rows[i]),
        **({"input": lambda _, i: column.name(int(split.rows[i]))} if hasattr(column, "name") else {}),
        **({"group": lambda _, i: split.groups[i]} if split.groups is not None else {}),
        "label": lambda _, i: classes[labels[i]],
        "predicted": lambda _, i: classes[predicted[i]],
        "probability": lambda _, i: f"{np.exp(sure[i]):.6g}",
        "loss": lambda _, i: f"{loss[i]:.6g}",
    }
    listed = range(len(classes) if len(classes) <= LISTED else 0)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*of_row, *(f"p({classes[k]})" for k in listed)])
    for place, i in enumerate(order):
        writer.writerow([*(of(place, i) for of in of_row.values()), *(f"{np.exp(log[i, k]):.6g}" for k in listed)])
    return text.getvalue()
