"""The data of a run: its splits, its classes, copies, and what `jaxfer doctor` found if it was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.data.split import Dataset
from jaxfer.reports import charts, numbers
from jaxfer.reports.markup import tag
from jaxfer.reports.page import Part, Section, paragraph
from jaxfer.reports.tables import table, text, whole

CLASSES = 30  # in a figure; of more, the largest and the smallest


def section(
    result: Mapping[str, Any],
    config: Mapping[str, Any],
    data: Dataset | None,
    notes: Sequence[str],
    diagnosed: Sequence[Part] = (),
) -> Section:
    """The data sheet.

    Args:
      result: result.json.
      config: config.json.
      data: opened once more; None: result.json alone is known.
      notes: copies and what else was found.
      diagnosed: what `jaxfer doctor` found.
    """
    examples = result["examples"]
    provenance = {} if data is None else data.provenance
    opened = "opened" if "test" in result["metrics"] else "sealed"
    rows = []
    for name in ("train", "unlabelled", "val", "test"):
        count = examples.get(name)
        if name == "test" and data is not None and data.sealed is not None:
            count = len(data.sealed)
        if count is not None or name == "test":
            state = opened if name == "test" else "read"
            rows.append([text(name), whole(count), text(provenance.get(name, "")), text(state)])
    headers = ("split", "examples", "origin", "labels")
    parts = [Part(content=table(headers, rows, caption="Splits"), name="table of splits")]
    counts = _counts(result, data)
    if counts and result["classes"]:
        parts.append(_classes(result["classes"], counts))
    fields = {f"data.{key}": value for key, value in config.get("data", {}).items() if value not in ("", [], {}, None)}
    cells = [[text(name), text(_shown(value))] for name, value in fields.items()]
    chosen = tag(
        "details",
        tag("summary", "Fields of the config's data"),
        table(("field", "value"), cells, label="Fields of the data"),
    )
    parts.append(Part(content=chosen, name="table of data fields"))
    parts += [*diagnosed, *(paragraph(note) for note in notes)]
    if "left_out" in result:
        parts.append(paragraph(f"{result['left_out']:,} bad rows or unreadable files were left out."))
    total = " and ".join(f"{examples[name]:,} examples of {name}" for name in ("train", "val") if name in examples)
    return Section(name="Data", title=f"{config['data'].get('source', 'Data')}: {total}", parts=parts)


def _counts(result: Mapping[str, Any], data: Dataset | None) -> dict[str, np.ndarray]:
    """{split: examples of each class}."""
    classes = result["classes"]
    found: dict[str, np.ndarray] = {}
    for name, split in {} if data is None else data.splits.items():
        if name in ("train", "val") and split.labels is not None and split.columns["label"].kind != "value":
            counts = split.class_counts
            found[name] = np.pad(counts, (0, max(len(classes) - len(counts), 0)))
    report = result.get("report", {}).get("val", {}).get("classes", {})
    if not found and set(report) >= set(classes) and classes:
        found["val"] = np.array([report[name]["support"] for name in classes])
    return found


def _classes(classes: Sequence[str], counts: Mapping[str, np.ndarray]) -> Part:
    split, shown = next(iter(counts.items()))
    order = np.arange(len(classes))
    about = "How many examples each class has."
    if len(classes) > CLASSES:
        by = np.argsort(-shown, kind="stable")
        order = np.concatenate([by[: CLASSES // 2], by[-CLASSES // 2 :]])
        about += f" The {CLASSES // 2} largest and smallest of {len(classes)} classes."
    low, high = int(shown.min()), int(shown.max())
    title = f"Every class has {low:,} examples" if low == high else f"Classes have {low:,} to {high:,} examples"
    values = {classes[i]: int(shown[i]) for i in order}
    drawn = charts.bars("classes", title, values, x_name=f"examples of {split}", show=numbers.whole)
    rows = [[text(name), *(whole(int(c[i])) for c in counts.values())] for i, name in enumerate(classes)]
    return charts.figure("classes", f"{title} of {split}", about, drawn, ("class", *counts), rows)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
