"""Text layout for terminals: lines break between words, never in numbers, and long names shrink to `a…z`.

In a file or a pipe nothing is broken or shortened, however long the lines get.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TextIO

from rich.cells import cell_len, set_cell_size

NAME, TEXT, NUMBER = "name", "text", "number"
GLUE = "\N{NO-BREAK SPACE}"  # a blank at which no line breaks; printed as a plain one
_LABEL = re.compile(r" *\S+(?: \S+)* {2,}")
_INNER = "\N{FIGURE SPACE}"  # stands for a blank inside a part while parts are packed
NARROWEST = 20  # columns; a terminal that claims fewer is treated as this wide
SHORTEST_NAME = 12  # columns; a name shortened further is no longer recognisable
GAP = "  "


class Column(NamedTuple):
    """A column of a table.

    Attributes:
      header: its title; a table whose titles are all empty has no line of titles.
      kind: NAME breaks between words and shortens longer ones, TEXT breaks between words, NUMBER is right-aligned and
        never broken.
    """

    header: str
    kind: str = TEXT


class Page(NamedTuple):
    """The medium that text is laid out for.

    Attributes:
      width: columns; None for a file or a pipe, in which nothing is broken or shortened.
      ellipsis: replaces the middle of a name that is too long.
    """

    width: int | None = None
    ellipsis: str = "…"


FILE = Page()


def is_terminal(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal; False once it is closed."""
    with contextlib.suppress(AttributeError, ValueError):
        return stream.isatty()
    return False


def page_of(stream: TextIO | None) -> Page:
    """The terminal that `stream` writes to, or FILE; the environment's COLUMNS goes before the terminal's width."""
    if not is_terminal(stream):
        return FILE
    columns = os.environ.get("COLUMNS", "")
    if not columns.isdigit():
        columns = 0
        with contextlib.suppress(OSError, ValueError):
            columns = os.get_terminal_size(stream.fileno()).columns
    width = max(int(columns) or 80, NARROWEST)
    try:
        "…".encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return Page(width, "...")
    return Page(width)


def say(text: str, stream: TextIO | None = None, *, hang: int | None = 2) -> None:
    """Prints `text` on `stream` (default: standard output), broken between words where that is a terminal."""
    stream = sys.stdout if stream is None else stream
    print(wrapped(text, page_of(stream).width, hang=hang), file=stream)


def shortened(text: str, width: int, ellipsis: str = "…") -> str:
    """`text` in at most `width` columns, its middle left out: `block_0…kernel`."""
    if cell_len(text) <= width:
        return text
    room = max(width - len(ellipsis), 0)
    tail = room // 2
    return set_cell_size(text, room - tail).rstrip() + ellipsis + set_cell_size(text[::-1], tail)[::-1].lstrip()


def wrapped(text: str, width: int | None, *, hang: int | None = 2) -> str:
    """`text` with each line broken between words. A longer word stays whole, so that a path can be copied.

    Args:
      text: one or more lines; each keeps its indentation.
      width: columns of a line; None breaks none.
      hang: columns by which the rest of a broken line is indented further than its beginning, up to a quarter of the
        width; None puts it below the value in lines such as `memory  12 GiB`.
    """
    if width is None:
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip(" ")))
        label = _LABEL.match(line) if hang is None else None
        further = label.end() - len(indent) if label else 2 if hang is None else hang
        rest = indent + " " * min(further, max(width // 4 - len(indent), 0))
        first, *others = _broken(line[len(indent) :], width - len(indent), width - len(rest))
        lines += [indent + first, *(rest + other for other in others)]
    return "\n".join(lines)


def packed(parts: Iterable[str], width: int | None, *, start: str = "", between: str = GAP, hang: int = 2) -> str:
    """`start`, then the parts in as few lines as hold them; only a part that is longer than a line is broken.

    Args:
      parts: such as `loss 0.1`.
      width: columns of a line.
      start: of the first line.
      between: separates parts on a line; at a break its mark, if any, ends the line.
      hang: columns by which the following lines are indented.
    """
    if width is None:
        return start + between.join(parts)
    mark = between.rstrip(" ")
    joint = mark.replace(" ", GLUE) + between[len(mark) :]
    lines = wrapped(start + joint.join(part.replace(" ", _INNER) for part in parts), width, hang=hang).split("\n")
    lines = [line.replace(_INNER, " ") for line in lines]
    lines = [wrapped(line, width) if cell_len(line) > width else line for line in lines]
    return "\n".join(lines).replace(GLUE, " ")


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], page: Page = FILE) -> str:
    """Rows under their titles, two blanks apart; if that is too wide, one block of `title: cell` per row.

    Args:
      columns: their titles and kinds.
      rows: a cell for each column; the NO-BREAK SPACE in a cell holds it together.
      page: where it is printed.
    """
    if page.width is not None:
        rows = [[_printable(cell) for cell in row] for row in rows]
    widths = _widths(columns, rows, page.width)
    if widths is None:
        return _blocks(columns, rows, page)
    titles = [_broken(column.header, width, width) for column, width in zip(columns, widths, strict=True)]
    body = [[_cell(*cell, page.ellipsis) for cell in zip(columns, row, widths, strict=True)] for row in rows]
    if not _distinct(columns, rows, body):
        return _blocks(columns, rows, page)
    grid = [titles, *body] if any(column.header for column in columns) else body
    widths = [max((cell_len(line) for row in grid for line in row[i]), default=0) for i in range(len(columns))]
    lines = [line for row in grid for line in _side_by_side(columns, row, widths, low=row is titles)]
    return "\n".join(lines).replace(GLUE, " ")


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[int] | None:
    """The width of each column: that of its longest cell, or as little as that of its longest word."""
    cells = [[column.header, *(row[i] for row in rows)] for i, column in enumerate(columns)]
    natural = [max(map(cell_len, texts)) for texts in cells]
    room = None if width is None else width - len(GAP) * (len(columns) - 1)
    if room is None or sum(natural) <= room:
        return natural
    least = []
    for column, (header, *texts) in zip(columns, cells, strict=True):
        words = [cell_len(text if column.kind == NUMBER else _longest(text)) for text in texts]
        longest = max(words, default=0)
        least.append(max(cell_len(_longest(header)), min(longest, SHORTEST_NAME) if column.kind == NAME else longest))
    spare = room - sum(least)
    if spare < 0:
        return None
    for kind in (NAME, TEXT, NUMBER):
        for i, column in enumerate(columns):
            if column.kind == kind:
                more = min(natural[i] - least[i], spare)
                least[i], spare = least[i] + more, spare - more
    return least


def _cell(column: Column, cell: str, width: int, ellipsis: str) -> list[str]:
    """The lines of a cell."""
    if column.kind == NUMBER:
        return [cell]
    lines = _broken(cell, width, width)
    return [shortened(line, width, ellipsis) for line in lines] if column.kind == NAME else lines


def _distinct(columns: Sequence[Column], rows: Sequence[Sequence[str]], body: Sequence[Sequence[list[str]]]) -> bool:
    """Whether all names are still different once shortened."""
    for i, column in enumerate(columns):
        looks = {row[i]: tuple(cells[i]) for row, cells in zip(rows, body, strict=True)}
        if column.kind == NAME and len(set(looks.values())) < len(looks):
            return False
    return True


def _side_by_side(
    columns: Sequence[Column], cells: Sequence[list[str]], widths: Sequence[int], *, low: bool
) -> Iterator[str]:
    """The lines of a row of cells, each cell at the top of the row, or at its foot if `low`."""
    height = max(map(len, cells))
    cells = [[""] * (height - len(c)) + c if low else c + [""] * (height - len(c)) for c in cells]
    for line in zip(*cells, strict=True):
        padded = []
        for column, text, width in zip(columns, line, widths, strict=True):
            blank = " " * (width - cell_len(text))
            padded.append(blank + text if column.kind == NUMBER else text + blank)
        yield GAP.join(padded).rstrip(" ")


def _blocks(columns: Sequence[Column], rows: Sequence[Sequence[str]], page: Page) -> str:
    """Each row as its name and, indented, its other cells that aren't empty."""
    head = next((i for i, column in enumerate(columns) if column.kind == NAME), 0)
    short = {row[head]: shortened(row[head], page.width, page.ellipsis) for row in rows}
    lines = []
    for row in rows:
        lines.append(short[row[head]] if len(set(short.values())) == len(short) else row[head])
        pairs = [
            f"{column.header}: {cell}" if column.header else cell
            for i, (column, cell) in enumerate(zip(columns, row, strict=True))
            if i != head and cell
        ]
        if pairs:
            lines.append(packed(pairs, page.width, start=GAP, hang=0))
    return "\n".join(lines).replace(GLUE, " ")


def _broken(text: str, first: int, rest: int) -> list[str]:
    """`text` in lines of at most `first`, then `rest` columns, broken at blanks and after semicolons."""
    lines, line = [], ""
    for word in re.split(r"(?<= )(?=[^ ])|(?<=;)(?=[^ ])", text):
        if line and cell_len(line + word.rstrip(" ")) > (rest if lines else first):
            lines.append(line.rstrip(" "))
            line = ""
        line += word
    return [*lines, line.rstrip(" ")]


def _longest(text: str) -> str:
    return max(_broken(text, 0, 0), key=cell_len)


def _printable(text: str) -> str:
    """Replaces tabs, newlines and control codes, which would break the table or control the terminal."""
    shown = (c if c.isprintable() or c == GLUE else " " if c.isspace() else "?" for c in text)
    return "".join(shown)
