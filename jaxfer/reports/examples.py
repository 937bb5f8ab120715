"""Single examples of val on a page: a picture or a text of each, what is said of it, and the same as a table."""

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
from jaxfer.reports.markup import Markup, tag
from jaxfer.reports.page import Part, paragraph
from jaxfer.reports.tables import Cell, table

SHOWN = 24  # that a page has
SIDE = 96  # pixels of a thumbnail, at most
WORDS = 320  # characters of a text


def listing(
    heading: str,
    items: Sequence[Markup],
    rows: Sequence[Sequence[Cell]],
    headers: Sequence[str],
    *,
    of: int,
    images: bool,
    label: str = "Mistakes",
    after: Sequence[Part] = (),
) -> list[Part]:
    """The examples, what belongs to them, and their table, folded; a line where there is none.

    Args:
      heading: says by what they are ordered.
      items: of `item`, or other list items.
      rows: of the table, one an item.
      headers: of the table.
      of: how many there are, these and those that are not shown.
      images: whether an item is a picture.
      label: of the table, in its summary too.
      after: parts between both.
    """
    if not items:
        return [paragraph("There is no mistake on val.")]
    heading += f", {len(items)} of {of:,}" if of > len(items) else ""
    folded = table(headers, rows, link="mistakes", label=label)
    return [
        Part(content=tag("h3", heading)),
        Part(content=tag("ol", *items, class_="mistakes" if images else "mistakes texts"), name="mistakes"),
        *after,
        Part(content=tag("details", tag("summary", f"{label} as a table"), folded), name="table mistakes"),
    ]


def item(split: Split, i: int, picture: str | None, alt: str, *told: object) -> Markup:
    """An example, its picture or its text, and what is told of it."""
    row = int(split.rows[i])
    name = named(split, row)
    shown = tag("img", src=picture, alt=alt, width=SIDE) if picture else quoted(name)
    where = f"row {row}" + (f", {name}" if picture and name else "")
    return tag("li", shown, *told, tag("br"), tag("span", where, class_="muted"))


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
