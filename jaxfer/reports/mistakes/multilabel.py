"""What sets of labels get wrong on val: each label's score, and the most confident mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.data.split import Split
from jaxfer.reports import calibration, charts, examples, numbers
from jaxfer.reports.looked import Looked
from jaxfer.reports.markup import tag
from jaxfer.reports.page import Part, Section
from jaxfer.reports.tables import Cell, score, text, whole

LABELS = 30  # in the figure; of more, those with the most mistakes


def sections(result: Mapping[str, Any], seen: Looked | None) -> list[Section]:
    """Its errors, and the calibration of its decisions; nothing where it was not looked at again."""
    if seen is None:
        return []
    chances = 1 / (1 + np.exp(-np.asarray(seen.collected, np.float64)))
    decisions = np.stack([1 - chances, chances], -1).reshape(-1, 2)
    return [
        section(seen.val, chances, result["classes"], seen.encodings),
        calibration.section(decisions, seen.val.labels.reshape(-1).astype(int), unit="decisions"),
    ]


def section(split: Split, chances: np.ndarray, classes: Sequence[str], encodings: Sequence[Any]) -> Section:
    """The errors of a run.

    Args:
      split: val.
      chances: float64 [examples, labels], the probability of each.
      classes: names of the labels.
      encodings: of the model's inputs.
    """
    true, given = split.labels.astype(bool), chances >= 0.5
    missed, extra = int((true & ~given).sum()), int((~true & given).sum())
    title = f"{missed:,} of the {true.sum():,} labels of val are missed, and {extra:,} are given that are not true"
    return Section(
        name="Errors",
        title=title,
        parts=[_by_label(true, given, classes), *_mistakes(split, chances, true, classes, encodings)],
    )


def _by_label(true: np.ndarray, given: np.ndarray, classes: Sequence[str]) -> Part:
    right, missed, extra = (true & given).sum(0), (true & ~given).sum(0), (~true & given).sum(0)
    with np.errstate(invalid="ignore"):  # a label that is neither true nor given has no score
        precision, recall, f1 = right / given.sum(0), right / true.sum(0), 2 * right / (2 * right + missed + extra)
    shown, about = np.arange(len(classes)), "F1 of each label, given from a probability of one half on."
    if len(classes) > LABELS:
        shown = np.sort(np.argsort(-(missed + extra), kind="stable")[:LABELS])
        about += f" The {LABELS} of {len(classes)} labels with the most mistakes."
    title = "Each label"
    drawn = charts.bars("labels", title, {classes[i]: float(f1[i]) for i in shown}, x_name="F1", show=numbers.score)
    counts = (true.sum(0), right, missed, extra)
    scores = (precision, recall, f1)
    rows = [
        [text(classes[i]), *(whole(int(n[i])) for n in counts), *(score(float(x[i])) for x in scores)] for i in shown
    ]
    headers = ("label", "examples with it", "found", "missed", "given wrongly", "precision", "recall", "F1")
    return charts.figure("labels", title, about, drawn, headers, rows)


def _mistakes(
    split: Split, chances: np.ndarray, true: np.ndarray, classes: Sequence[str], encodings: Sequence[Any]
) -> list[Part]:
    """The most confident ones with their images or texts: an example may come more than once."""
    sure = np.where((chances >= 0.5) != true, np.abs(chances - 0.5), -1.0).ravel()
    count = int((sure >= 0).sum())
    order = np.argsort(-sure, kind="stable")[: min(count, examples.SHOWN)]
    places, items, rows = [(int(k) // len(classes), int(k) % len(classes)) for k in order], [], []
    pictures = examples.pictures(split, np.array([i for i, _ in places]), encodings)
    for place, (i, label) in enumerate(places):
        what, truly = ("missed", "it has") if true[i, label] else ("given", "it has not")
        own = ", ".join(name for name, has in zip(classes, true[i], strict=True) if has) or "none"
        chance = f"{truly}, at {numbers.percent(chances[i, label])}"
        told = tag("strong", f"{what}: {classes[label]}"), f" ({chance})", tag("br"), f"its labels: {own}"
        items.append(examples.item(split, i, pictures[place] if pictures else None, f"{what}: {classes[label]}", *told))
        row = int(split.rows[i])
        chance = Cell(float(chances[i, label]), numbers.score(chances[i, label]))
        name = text(examples.named(split, row)[: examples.WORDS])
        rows.append([whole(row), text(classes[label]), text(what), chance, text(own), name])
    headers = ("row", "label", "mistake", "its probability", "labels of the example", "file or text")
    return examples.listing("The most confident mistakes first", items, rows, headers, of=count, images=bool(pictures))
