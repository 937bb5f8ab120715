"""What masks get wrong on val: each class's score, and the pictures with the most mistaken pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.data.encodings.image import OUTSIDE, ImageEncoding
from jaxfer.data.split import Split
from jaxfer.figures.pictures import colours
from jaxfer.network import Network, of_state
from jaxfer.reports import charts, examples, numbers
from jaxfer.reports.looked import Looked
from jaxfer.reports.markup import tag
from jaxfer.reports.page import Part, Section
from jaxfer.reports.tables import Cell, score, text, whole

WRONG = (230, 60, 30)  # the colour of a mistaken pixel
GREY = 128  # of a picture of other channels than colours


def sections(result: Mapping[str, Any], seen: Looked | None) -> list[Section]:
    """Its errors; nothing where it was not looked at again."""
    if seen is None:
        return []
    network = of_state(seen.finished.stage, seen.finished.state)
    return [section(seen.val, np.asarray(seen.collected["confusion"], np.int64), result["classes"], network)]


def section(split: Split, confusion: np.ndarray, classes: Sequence[str], network: Network) -> Section:
    """The errors of a run.

    Args:
      split: val.
      confusion: int64 [examples, true class, answered class], counts of pixels.
      classes: their names.
      network: that answered.
    """
    total = confusion.sum(0)
    wrong = int(total.sum() - np.trace(total))
    title = f"{numbers.percent(wrong / max(int(total.sum()), 1))} of val's labelled pixels are mistaken"
    off = total - np.diag(np.diag(total))
    if off.any():
        i, j = np.unravel_index(off.argmax(), off.shape)
        title += f"; {classes[i]} is taken for {classes[j]} most often"
    return Section(name="Errors", title=title, parts=[_by_class(total, classes), *_mistakes(split, confusion, network)])


def _by_class(total: np.ndarray, classes: Sequence[str]) -> Part:
    both, true, answered = np.diag(total), total.sum(1), total.sum(0)
    values, rows = {}, []
    for i, name in enumerate(classes):
        either = true[i] + answered[i] - both[i]
        values[name] = float(both[i] / either) if either else None
        others = np.where(np.arange(len(classes)) == i, -1, total[i])
        most = classes[int(others.argmax())] if others.max() > 0 else ""
        recall = float(both[i] / true[i]) if true[i] else None
        rows.append(
            [text(name), whole(int(true[i])), whole(int(answered[i])), score(values[name]), score(recall), text(most)]
        )
    title, about = "Each class", "Intersection over union, of all pixels of val; their mean is mIoU."
    known = {name: value for name, value in values.items() if value is not None}
    drawn = charts.bars("classes", title, known, x_name="IoU", show=numbers.score)
    headers = ("class", "true pixels", "answered pixels", "IoU", "recall", "taken most often for")
    return charts.figure("classes", title, about, drawn, headers, rows)


def _mistakes(split: Split, confusion: np.ndarray, network: Network) -> list[Part]:
    """Each picture, and beside it the pixels that are mistaken."""
    pixels = confusion.sum((1, 2))
    wrong = pixels - np.trace(confusion, axis1=1, axis2=2)
    share = wrong / np.maximum(pixels, 1)
    order = np.argsort(-share, kind="stable")[: examples.SHOWN]
    order, items, rows = order[wrong[order] > 0], [], []
    encoding = next(e for e in network.port.encodings if isinstance(e, ImageEncoding))
    read = encoding.reader(split)
    for i in order:
        batch = read(np.array([i]), None, None)
        answered = np.asarray(network({name: batch[name] for name in network.port.inputs}).outputs[0]).argmax(-1)
        mistaken = (answered != batch["mask"][0]) & (batch["mask"][0] != OUTSIDE)
        shown = colours(batch["image"][0], encoding) if encoding.size[2] in (1, 3) else np.uint8(GREY)
        picture = np.broadcast_to(shown, (*mistaken.shape, 3))
        views = (picture, np.where(mistaken[..., None], np.uint8(WRONG), picture // 3 + 160))
        row, told = int(split.rows[i]), f"{numbers.percent(share[i])} mistaken"
        images = (
            tag("img", src=examples.thumbnail(v), alt=alt) for v, alt in zip(views, ("the picture", told), strict=True)
        )
        name = examples.named(split, row)
        where = tag("span", f"row {row}" + (f", {name}" if name else ""), class_="muted")
        items.append(tag("li", tag("span", *images, class_="views"), tag("strong", told), tag("br"), where))
        rows.append([whole(row), whole(int(wrong[i])), Cell(float(share[i]), numbers.score(share[i])), text(name)])
    heading = "The pictures with the most mistaken pixels first, which are red beside them"
    headers = ("row", "mistaken pixels", "share of the labelled", "file")
    return examples.listing(heading, items, rows, headers, of=int((wrong > 0).sum()), images=True)
