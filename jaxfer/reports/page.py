"""The frame of a report: one HTML file without scripts that asks no network for anything, and stays small."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from jaxfer import __version__
from jaxfer.reports.markup import Markup, joined, tag
from jaxfer.reports.numbers import NONE
from jaxfer.reports.style import sheet

# No script, no font, no request: a browser refuses all but what the file holds itself.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
LIMIT = 2_000_000  # bytes of a page, unless another limit is asked for
HEAVY = 5_000_000  # bytes from which on browsers get slow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a section.

    Attributes:
      content: its HTML.
      name: what is missing where the page has no room for it; empty for what always stays.
      figure: whether it stands beside its neighbours where there is room.
    """

    content: Markup
    name: str = ""
    figure: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A section.

    Attributes:
      name: its short name, for the contents.
      title: its heading, which states a finding.
      parts: what it holds.
    """

    name: str
    title: str
    parts: Sequence[Part]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """A report.

    Attributes:
      kind: what it is about: `comparison`, `run`.
      title: the first finding.
      lead: a sentence below it.
      tiles: {name: (value, remark)} of the numbers that one looks for first.
      sections: in order of weight: the last ones are left out first.
      refresh: seconds after which a browser asks for the page again; 0: never.
    """

    kind: str
    title: str
    lead: str
    tiles: Mapping[str, tuple[str, str]]
    sections: Sequence[Section]
    refresh: int = 0

    def html(self, limit: int = LIMIT) -> tuple[str, tuple[str, ...]]:
        """(the file, names of the parts that it has no room for)."""
        room = limit - len(self._whole([], ()).encode()) - 4_000 - 300 * len(self.sections)
        rendered, left_out = [], []
        for section in self.sections:
            kept = []
            for part in section.parts:
                size = len(part.content.encode())
                if part.name and size > room:
                    left_out.append(part.name)
                    continue
                room -= size
                kept.append(part)
            rendered.append(_section(section, kept))
        return self._whole(rendered, left_out), tuple(left_out)

    def _whole(self, sections: Sequence[Markup], left_out: Sequence[str]) -> str:
        contents = (tag("li", tag("a", s.name, href=f"#{slug(s.name)}")) for s in self.sections)
        numbers = (
            tag("div", tag("dt", name), tag("dd", value, tag("small", remark) if remark else ""), class_="tile")
            for name, (value, remark) in self.tiles.items()
        )
        head = joined(
            (
                tag("meta", charset="utf-8"),
                tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
                tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
                tag("meta", name="color-scheme", content="light dark"),
                *([tag("meta", http_equiv="refresh", content=self.refresh)] if self.refresh else []),
                tag("title", f"{self.title} – jaxfer {self.kind}"),
                tag("style", Markup(sheet())),
            ),
            "\n",
        )
        names = ", ".join(left_out[:12]) + (f" and {len(left_out) - 12} more" if len(left_out) > 12 else "")
        missing = f"{len(left_out)} parts left out to keep the page small: {names}; --limit makes room. "
        body = (
            tag("a", "Skip to the findings", href="#content", class_="skip"),
            tag(
                "header",
                _wrap(
                    tag("p", self.kind, class_="kind"),
                    tag("h1", self.title),
                    tag("p", self.lead) if self.lead else "",
                    tag("dl", *numbers, class_="tiles") if self.tiles else "",
                ),
            ),
            tag("nav", _wrap(tag("ul", *contents)), aria_label="Contents") if self.sections else "",
            tag("main", _wrap(*sections), id="content"),
            tag("footer", _wrap(tag("p", missing if left_out else "", f"Written by jaxfer {__version__}."))),
        )
        inner = joined(body, "\n")
        return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{inner}\n</body>\n</html>\n'


def slug(name: str) -> str:
    """An id made of a name."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).strip("-")


def paragraph(*text: object, muted: bool = False) -> Part:
    return Part(content=tag("p", *text, class_="muted small" if muted else None))


def definitions(fields: Mapping[str, object]) -> Markup:
    """Names and values as a table of two columns."""
    rows = (tag("tr", tag("th", name, scope="row"), tag("td", value or NONE)) for name, value in fields.items())
    return tag("div", tag("table", tag("tbody", *rows)), class_="scroll")


def _wrap(*children: object) -> Markup:
    return tag("div", *children, class_="wrap")


def _section(section: Section, parts: Sequence[Part]) -> Markup:
    content, row = [], []
    for part in (*parts, None):
        if part is not None and part.figure:
            row.append(part.content)
            continue
        if row:
            content.append(tag("div", *row, class_="figures"))
            row = []
        content += [] if part is None else [part.content]
    name = slug(section.name)
    heading = tag("h2", section.title, id=f"{name}-title")
    return tag("section", heading, *content, id=name, aria_labelledby=f"{name}-title")
