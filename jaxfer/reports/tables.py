"""Tables of a report: HTML that can be copied, and the same numbers in full as a CSV in a link."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxfer.evals.intervals import mean_interval
from jaxfer.reports import numbers
from jaxfer.reports.markup import Markup, tag

ROWS = 200  # of a table on the page; a CSV has ten times as many


class Cell(NamedTuple):
    """A value and how it is shown.

    Attributes:
      value: as the CSV has it.
      shown: text or markup.
      number: whether it is aligned with other numbers.
    """

    value: Any
    shown: Any
    number: bool = True


def text(value: Any, shown: Any = None) -> Cell:
    return Cell(value, value if shown is None else shown, number=False)


def score(value: Any) -> Cell:
    return Cell(value, numbers.score(value))


def whole(value: Any) -> Cell:
    return Cell(value, numbers.whole(value))


def plain(value: Any) -> Cell:
    return Cell(value, numbers.plain(value), number=numbers.known(value))


def seconds(value: Any) -> Cell:
    return Cell(value, numbers.seconds(value))


def mean(values: Sequence[float]) -> Cell:
    """The mean with the half-width of its 95 % interval; a dash of nothing."""
    if not values:
        return score(None)
    middle, half = mean_interval(values)
    return Cell(middle, numbers.score(middle) + (f" ± {numbers.score(half)}" if numbers.known(half) else ""))


def table(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str = "", link: str = "", label: str = ""
) -> Markup:
    """A table whose first column names the rows.

    Args:
      headers: a title for each column.
      rows: a cell for each column; those after the 200th are counted.
      caption: what it is of.
      link: a name for the file that holds the numbers in full; empty: none.
      label: what a screen reader calls it, where it has no caption.
    """
    numeric = [all(row[i].number for row in rows) and bool(rows) for i in range(len(headers))]
    classes = ["n" if number else None for number in numeric]
    head = tag("tr", *(tag("th", h, scope="col", class_=c) for h, c in zip(headers, classes, strict=True)))
    body = (
        tag(
            "tr",
            tag("th", row[0].shown, scope="row", class_=classes[0]),
            *(tag("td", cell.shown, class_=c) for cell, c in zip(row[1:], classes[1:], strict=True)),
        )
        for row in rows[:ROWS]
    )
    more = f" {len(rows) - ROWS:,} more rows are not shown." if len(rows) > ROWS else ""
    title = tag("caption", caption + more) if caption or more else ""
    whole_table = tag("table", title, tag("thead", head), tag("tbody", *body))
    scrolls = tag("div", whole_table, class_="scroll", tabindex="0", role="region", aria_label=caption or label)
    return Markup(scrolls + (tag("p", _link(headers, rows, link), class_="small") if link else ""))


def numbers_of(title: str, headers: Sequence[str], rows: Sequence[Sequence[Cell]], link: str) -> Markup:
    """The numbers of a figure, to be opened below it."""
    return tag("details", tag("summary", "Numbers of this figure"), table(headers, rows, link=link, label=title))


def _link(headers: Sequence[str], rows: Sequence[Sequence[Cell]], name: str) -> Markup:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows([numbers.full(cell.value) for cell in row] for row in rows[: 10 * ROWS])
    data = base64.b64encode(content.getvalue().encode(errors="backslashreplace")).decode()
    return tag("a", f"{name}.csv", href=f"data:text/csv;base64,{data}", download=f"{name}.csv")
