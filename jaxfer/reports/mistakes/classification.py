"""What a classifier gets wrong on val: its confusion, the pairs it confuses most, and its most confident mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.data.split import Split
from jaxfer.figures.confusion import matrix
from jaxfer.network import Network, of_state
from jaxfer.reports import calibration, charts, examples, grids, numbers, saliency
from jaxfer.reports.looked import Looked
from jaxfer.reports.markup import Markup, tag
from jaxfer.reports.page import Part, Section
from jaxfer.reports.tables import Cell, text, whole

CLASSES = 30  # in a figure of the confusion; of more, those with the most mistakes
PAIRS = 12  # of classes that are confused most


def sections(result: Mapping[str, Any], seen: Looked | None) -> list[Section]:
    """Its errors, also where it was not looked at again, and its calibration."""
    counts, classes, found = result.get("report", {}).get("val", {}).get("confusion"), result["classes"], []
    chances = None if seen is None else softmax(np.asarray(seen.collected, np.float64))
    if counts is not None:
        network = seen and of_state(seen.finished.stage, seen.finished.state)
        shown = [] if seen is None else mistakes(seen.val, chances, classes, network)
        found.append(section(matrix(counts, classes), classes, shown))
    if seen is not None:
        found.append(calibration.section(chances, seen.val.labels))
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [n, classes] of logits."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def section(counts: np.ndarray, classes: Sequence[str], mistakes: Sequence[Part]) -> Section:
    """The errors of a run.

    Args:
      counts: int [true classes, predicted classes] on val.
      classes: their names.
      mistakes: what shows single ones.
    """
    wrong = int(counts.sum() - np.trace(counts))
    pairs = _pairs(counts)
    title = f"{wrong:,} of {counts.sum():,} examples of val are mistaken"
    if pairs:
        i, j = pairs[0]
        title += f"; {classes[i]} is taken for {classes[j]} most often ({counts[i, j]} of {counts[i].sum()})"
    parts = [_confusion(counts, classes)]
    if pairs:
        parts.append(_most(counts, classes, pairs))
    return Section(name="Errors", title=title, parts=[*parts, *mistakes])


def _pairs(counts: np.ndarray) -> list[tuple[int, int]]:
    """(true, predicted) of mistakes, the most frequent first."""
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    return [(int(k) // len(off), int(k) % len(off)) for k in order if off.flat[k]]


def _confusion(counts: np.ndarray, classes: Sequence[str]) -> Part:
    shown, about = np.arange(len(classes)), "A row for each true class; the darker, the larger its share of the row."
    if len(classes) > CLASSES:
        missed = counts.sum(1) - np.diag(counts)
        shown = np.sort(np.argsort(-missed, kind="stable")[:CLASSES])
        about += f" The {CLASSES} of {len(classes)} classes with the most mistakes."
    names = [classes[i] for i in shown]
    cells = counts[np.ix_(shown, shown)]
    title = "Confusion on val"
    drawn = grids.heatmap("confusion", title, cells, names, counts.sum(1)[shown])
    rows = [[text(classes[i]), *map(whole, counts[i, shown]), whole(counts[i].sum())] for i in map(int, shown)]
    rows = [[Cell(c.value if isinstance(c.value, str) else int(c.value), *c[1:]) for c in row] for row in rows]
    return charts.figure("confusion", title, about, drawn, ("true class", *names, "examples"), rows)


def _most(counts: np.ndarray, classes: Sequence[str], pairs: Sequence[tuple[int, int]]) -> Part:
    support = counts.sum(1)
    values = {f"{classes[i]} → {classes[j]}": counts[i, j] / support[i] for i, j in pairs}
    title = "The most confused pairs"
    drawn = charts.bars("pairs", title, values, x_name="share of the true class", show=numbers.percent)
    rows = [[text(classes[i]), text(classes[j]), whole(int(counts[i, j])), whole(int(support[i]))] for i, j in pairs]
    about = "True class → what it is taken for, by number of examples."
    return charts.figure("pairs", title, about, drawn, ("true class", "predicted", "examples", "of"), rows)


def mistakes(split: Split, probabilities: np.ndarray, classes: Sequence[str], network: Network) -> list[Part]:
    """The most confident mistakes with their images or texts, and what they rest on."""
    labels, predicted = split.labels, probabilities.argmax(-1)
    sure = probabilities.max(-1)
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][: examples.SHOWN]
    images, items = examples.pictures(split, order, network.port.encodings), []
    reasons = saliency.shown(network, split, order, predicted[order])
    for place, i in enumerate(order):
        row, true = int(split.rows[i]), probabilities[i, labels[i]]
        name = examples.named(split, row)
        label, taken = classes[labels[i]], classes[predicted[i]]
        shown = images[place] if images else None
        what = tag("img", src=shown, alt=f"{label}, taken for {taken}", width=examples.SIDE) if shown else ""
        words = examples.quoted(name) if not shown else ""
        if place < len(reasons):
            views = [
                tag("img", src=examples.thumbnail(v), alt=f"{what_is} for {taken}")
                for v, what_is in reasons[place].views
            ]
            what = Markup(what + tag("span", *views, class_="views")) if views else what
            words = reasons[place].text or words
        where = f"row {row}" + (f", {name}" if shown and name else "")
        if place < len(reasons):
            where += f"; its colours miss {numbers.percent(reasons[place].error)}"
        told = (
            tag("strong", taken),
            f" ({numbers.percent(sure[i])} sure)",
            tag("br"),
            f"truly {label} ({numbers.percent(true)})",
            tag("br"),
            tag("span", where, class_="muted"),
        )
        items.append(tag("li", what, words, *told))
    shown = [int(split.rows[i]) for i in order[: len(reasons)]]
    after = [saliency.note(reasons), *saliency.shares(reasons, shown)] if reasons else []
    heading = "The most confident mistakes first"
    return examples.listing(
        heading,
        items,
        _rows(split, order, classes, probabilities),
        HEADERS,
        of=len(wrong),
        images=bool(images),
        after=after,
    )


HEADERS = ("row", "true class", "predicted", "its probability", "that of the true class", "file or text")


def _rows(split: Split, order: np.ndarray, classes: Sequence[str], probabilities: np.ndarray) -> list[list[Cell]]:
    rows = []
    for i in order:
        row, taken = int(split.rows[i]), int(probabilities[i].argmax())
        chance = [
            Cell(float(p), numbers.score(p)) for p in (probabilities[i, taken], probabilities[i, split.labels[i]])
        ]
        name = text(examples.named(split, row)[: examples.WORDS])
        rows.append([whole(row), text(classes[split.labels[i]]), text(classes[taken]), *chance, name])
    return rows
