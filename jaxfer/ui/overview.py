"""The first page: sweeps and comparisons with their progress, rankings, diagnoses, and the table of `jaxfer runs`."""

from __future__ import annotations

import collections
import os
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from jaxfer.errors import InputError
from jaxfer.reports import of_json
from jaxfer.reports.cells import cells
from jaxfer.reports.markup import Markup, joined, tag
from jaxfer.reports.page import Page, Part, Section, paragraph
from jaxfer.reports.tables import ROWS, Cell, table, text, whole
from jaxfer.runs import listing
from jaxfer.runs.folder import in_use
from jaxfer.runs.survey import DAMAGED, DIVERGED, FAILED, FINISHED, UNFINISHED, Run
from jaxfer.ui import places
from jaxfer.ui.listed import RUNNING, WAITING, state

REFRESH = 5  # seconds between two looks at what goes on
PLURALS = {places.DIAGNOSIS: "diagnoses"}
ORDER = (RUNNING, UNFINISHED, FINISHED, FAILED, DIVERGED, DAMAGED)


class Asked(NamedTuple):
    """What an address asks of the table, as the options of `jaxfer runs`; `start` is the first row of the page."""

    sort: str = ""
    filters: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    start: int = 0

    @classmethod
    def read(cls, query: str) -> Asked:
        """Of `sort=-lr&filter=lr>0.1&columns=lr,method&from=200`.

        Raises:
          InputError: another field, or no number.
        """
        try:
            fields = urllib.parse.parse_qs(query, keep_blank_values=True, max_num_fields=50)
        except ValueError:
            raise InputError("expected at most 50 fields after `?`") from None
        for name in fields:
            if name not in ("sort", "filter", "columns", "from"):
                raise InputError(f"expected sort, filter, columns or from after `?`, found {name!r}")
        start = fields.get("from", ["0"])[-1]
        if not (start.isascii() and start.isdigit() and len(start) < 10):
            raise InputError(f"from: expected the number of a row, found {start!r}")
        columns = ",".join(fields.get("columns", [])).split(",")
        return cls(
            sort=fields.get("sort", [""])[-1],
            filters=tuple(fields.get("filter", ())),
            columns=tuple(name.strip() for name in columns if name.strip()),
            start=int(start),
        )

    def address(self, **changes: Any) -> str:
        """Of the same table with some of it changed."""
        new = self._replace(**changes)
        fields = [("sort", new.sort)] if new.sort else []
        fields += [("filter", each) for each in new.filters]
        fields += [("columns", ",".join(new.columns))] if new.columns else []
        fields += [("from", str(new.start))] if new.start else []
        return f"/?{urllib.parse.urlencode(fields)}" if fields else "/"


def page(root: Path, runs: Sequence[Run], asked: Asked) -> Page:
    """The page of a folder's runs.

    Raises:
      InputError: the table that is asked for has no such field.
    """
    states = {run.folder: state(run) for run in runs}
    counts = collections.Counter(states.values())
    found = {place: places.kind(place) for place in places.collections(root)}
    gathered = _gathered(root, runs, [place for place, kind in found.items() if kind not in places.WRITTEN.values()])
    alive = counts[RUNNING] or any(row.going for row in gathered)
    sections = []
    if gathered:
        rows = [row.cells for row in gathered]
        content = table(("name", "kind", "state", "cells", "finished", "lost"), rows, caption="Sweeps and comparisons")
        count = _numbers(row.cells[1].value for row in gathered)
        sections.append(Section(name="Sweeps and comparisons", title=count, parts=[Part(content=content)]))
    sections += _written(root, {place: kind for place, kind in found.items() if kind in places.WRITTEN.values()})
    sections += [_table(root, runs, states, asked)] if runs else []
    return Page(
        kind="runs",
        title=f"{_numbers(['run'] * len(runs) or found.values())} in {root.name or root}",
        lead=str(root),
        tiles={name: (f"{counts[name]:,}", "") for name in ORDER if counts[name]},
        sections=sections,
        refresh=REFRESH if alive else 0,
    )


def counted(root: Path, runs: Sequence[Run]) -> str:
    """`3 runs`; where none has begun what else there is, such as `1 sweep, 2 rankings`."""
    return _numbers(["run"] * len(runs) or map(places.kind, places.collections(root)))


def _numbers(kinds: Iterable[str]) -> str:
    """`2 sweeps, 1 diagnosis`."""
    count = collections.Counter(kinds).items()
    return ", ".join(f"{number:,} {kind if number == 1 else PLURALS.get(kind, f'{kind}s')}" for kind, number in count)


class _Gathered(NamedTuple):
    cells: tuple[Cell, ...]
    going: bool


def _gathered(root: Path, runs: Sequence[Run], folders: Sequence[Path]) -> list[_Gathered]:
    """A row for each sweep and comparison, of these folders."""
    inside: dict[str, list[Run]] = {}
    for run in runs:
        inside.setdefault(os.path.dirname(os.path.dirname(run.folder)), []).append(run)
    rows = []
    for folder in folders:
        kind, going = places.kind(folder), in_use(epath.Path(folder))
        address, name = places.quoted(root, folder), os.path.relpath(folder, root)
        count = collections.Counter(run.state for run in inside.get(str(folder), ()))
        lost = count[FAILED] + count[DIVERGED]
        try:
            total = len({cell["folder"] for cell in cells(epath.Path(folder))})  # cells of one config share a run
        except InputError as error:
            known = (text(name), text(kind), text(DAMAGED, damaged(str(error), root)), *[Cell(None, "–")] * 3)
            rows.append(_Gathered(known, False))
            continue
        done = (folder / places.COMPARED).exists() if kind == places.COMPARISON else count[FINISHED] + lost >= total
        idle = UNFINISHED if str(folder) in inside else WAITING
        how, where = (RUNNING, "live") if going else (FINISHED, "report") if done else (idle, "live")
        link = tag("a", name if name != "." else root.name, href=f"/{where}/{address}")
        shown = (text(name, link), text(kind), text(how), whole(total), whole(count[FINISHED]), whole(lost))
        rows.append(_Gathered(shown, going))
    return rows


def _written(root: Path, found: Mapping[Path, str]) -> list[Section]:
    """The rankings and diagnoses; [] without one."""
    rows = []
    for path, kind in found.items():
        name = os.path.relpath(path, root)
        link = tag("a", name, href=f"/report/{places.quoted(root, path)}")
        try:
            rows.append((text(name, link), text(kind), text(of_json.headline(epath.Path(path)))))
        except InputError as error:
            rows.append((text(name), text(kind), text(DAMAGED, damaged(str(error), root))))
    if not rows:
        return []
    content = table(("name", "kind", "finding"), rows, caption="Rankings and diagnoses")
    title = _numbers(found.values())
    return [Section(name="Rankings and diagnoses", title=title, parts=[Part(content=content)])]


def damaged(problem: str, root: Path) -> Markup:
    """The state of what can't be read, with the reason below it."""
    return tag("details", tag("summary", DAMAGED), problem.replace(f"{root}{os.sep}", ""))


def _table(root: Path, runs: Sequence[Run], states: Mapping[str, str], asked: Asked) -> Section:
    columns, rows = listing.table(runs, columns=asked.columns, filters=asked.filters, sort=asked.sort)
    if not asked.columns:  # configs may differ in more fields than a window has room for
        columns.sort(
            key=lambda name: not (name in ("name", "state", *listing.COST) or name.startswith(("val.", "test.")))
        )
    problems = {run.folder: run.problem for run in runs if run.problem}
    shown = rows[asked.start : asked.start + ROWS]
    numeric = {name: all(_number(row.get(name)) for row in rows) for name in columns}
    body = [[_cell(name, row, root, states, problems, numeric[name]) for name in columns] for row in shown]
    headers = [_header(name, asked) for name in columns]
    parts = [Part(content=table(headers, body, caption="Runs: a name leads to its report"))]
    last = asked.start + len(shown)
    if len(rows) > ROWS or asked.start:
        links = [
            tag("a", name, href=asked.address(start=start))
            for name, start in (("first", 0), ("earlier", max(asked.start - ROWS, 0)), ("later", last))
            if start != asked.start and start < len(rows)
        ]
        parts.append(paragraph(f"Rows {asked.start + 1:,} to {last:,} of {len(rows):,}. ", joined(links, " · ")))
    if asked.filters:
        filters = f"Where {' and '.join(asked.filters)}. "
        parts.insert(0, paragraph(filters, tag("a", "Show all runs", href=asked.address(filters=(), start=0))))
    title = f"{len(rows):,} of {len(runs):,} runs" if len(rows) < len(runs) else "Every run"
    return Section(name="Runs", title=title, parts=parts)


def _header(name: str, asked: Asked) -> Markup:
    """A column's title, which sorts by it: largest first, then smallest first."""
    mark = {name: " ▲", f"-{name}": " ▼"}.get(asked.sort, "")
    sort = name if asked.sort == f"-{name}" else f"-{name}"
    return tag("a", name + mark, href=asked.address(sort=sort, start=0))


def _cell(
    name: str,
    row: Mapping[str, Any],
    root: Path,
    states: Mapping[str, str],
    problems: Mapping[str, str],
    numeric: bool,
) -> Cell:
    value, folder = row.get(name), row["folder"]
    shown: Any = listing.shown(name, dict(row))
    if name == "name" and folder not in problems:
        where = "report" if row["state"] == FINISHED else "live"
        return text(value, tag("a", value, href=f"/{where}/{places.quoted(root, folder)}"))
    if name == "state" and folder in problems:
        return text(value, damaged(problems[folder], root))
    if name == "state" and states[folder] == RUNNING:
        shown = f"{RUNNING}: {shown}"
    return Cell(value, shown, number=numeric)


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
