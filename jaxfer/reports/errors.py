"""What a classifier gets wrong on val: its confusion, the pairs it confuses most, and its most confident mistakes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.split import Split
from jaxfer.figures.pictures import colours
from jaxfer.network import Network
from jaxfer.reports import charts, grids, numbers, saliency
from jaxfer.reports.markup import Markup, tag
from jaxfer.reports.page import Part, Section, paragraph
from jaxfer.reports.tables import Cell, table, text, whole

CLASSES = 30  # in a figure of the confusion; of more, those with the most mistakes
PAIRS = 12  # of classes that are confused most
MISTAKES = 24  # that are shown
SIDE = 96  # pixels of a thumbnail, at most
WORDS = 320  # characters of a text


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
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
    if not len(order):
        return [paragraph("There is no mistake on val.")]
    images, items = pictures(split, order, network.port.encodings), []
    reasons = saliency.shown(network, split, order, predicted[order])
    for place, i in enumerate(order):
        row, true = int(split.rows[i]), probabilities[i, labels[i]]
        name = named(split, row)
        label, taken = classes[labels[i]], classes[predicted[i]]
        shown = images[place] if images else None
        what = tag("img", src=shown, alt=f"{label}, taken for {taken}", width=SIDE) if shown else ""
        words = quoted(name) if not shown else ""
        if place < len(reasons):
            views = [tag("img", src=thumbnail(v), alt=f"{what_is} for {taken}") for v, what_is in reasons[place].views]
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
    more = f", {len(order)} of {len(wrong):,}" if len(wrong) > len(order) else ""
    heading = Part(content=tag("h3", f"The most confident mistakes first{more}"))
    kind = "mistakes" if images else "mistakes texts"
    return [
        heading,
        Part(content=tag("ol", *items, class_=kind), name="mistakes"),
        *([saliency.note(reasons)] if reasons else []),
        *saliency.shares(reasons, [int(split.rows[i]) for i in order[: len(reasons)]]),
        _table(split, order, classes, probabilities),
    ]


def _table(split: Split, order: np.ndarray, classes: Sequence[str], probabilities: np.ndarray) -> Part:
    rows = []
    for i in order:
        row, taken = int(split.rows[i]), int(probabilities[i].argmax())
        chance = [
            Cell(float(p), numbers.score(p)) for p in (probabilities[i, taken], probabilities[i, split.labels[i]])
        ]
        rows.append(
            [whole(row), text(classes[split.labels[i]]), text(classes[taken]), *chance, text(named(split, row)[:WORDS])]
        )
    headers = ("row", "true class", "predicted", "its probability", "that of the true class", "file or text")
    summary = tag("summary", "These mistakes as a table")
    return Part(
        content=tag("details", summary, table(headers, rows, link="mistakes", label="Mistakes")), name="table mistakes"
    )


def quoted(name: str) -> Markup | str:
    """A text, cut at WORDS characters; nothing of an empty one."""
    return tag("q", name[:WORDS] + ("…" if len(name) > WORDS else "")) if name else ""


def named(split: Split, row: int) -> str:
    """The text or the file of a row, as far as the source knows one."""
    column = split.input[1]
    return str(column.name(row)) if hasattr(column, "name") else ""


def pictures(split: Split, order: np.ndarray, encodings: Sequence[Any]) -> list[str]:
    """Each example as the model reads it, as a data URI; [] where it reads no images."""
    encoding = next((e for e in encodings if isinstance(e, ImageEncoding)), None)
    if encoding is None or encoding.size[2] not in (1, 3):
        return []
    read, found = encoding.reader(split), []
    for i in order:
        found.append(thumbnail(colours(read(np.array([i]), None, None)["image"][0], encoding)))
    return found


def thumbnail(image: np.ndarray) -> str:
    """A data URI of uint8 [h, w, 1 or 3] in at most 96 pixels; a small image keeps its pixels."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    small = max(picture.size) <= SIDE // 2
    picture.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG" if small else "JPEG", **({"optimize": True} if small else {"quality": 80}))
    kind = "png" if small else "jpeg"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}")
