"""What an address shows: `/` the table, `/report/PATH`, `/evaluated/PATH`, `/live/PATH` what lies in a folder.

PATH may also be the rank.json or the doctor.json in a folder.

No file is ever sent as it is. A page is made of what jaxfer's own readers find in a run's files.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jaxfer.errors import InputError
from jaxfer.reports import numbers
from jaxfer.reports.markup import Markup, tag
from jaxfer.reports.page import Page
from jaxfer.ui import overview, places, progress
from jaxfer.ui.listed import Listed
from jaxfer.ui.made import Reports, Waiting

SOON = 2  # seconds between two looks at a report that is being made
ALL = "/"


class Answer(NamedTuple):
    """An answer to a request: its status code, its HTML, and where else to look."""

    status: int
    html: str
    location: str = ""


class Site:
    """The pages on a folder of runs."""

    def __init__(self, root: Path):
        self._root, self._listed, self._reports = root, Listed(root), Reports(root)
        self._views = {"report": self._report, "evaluated": self._evaluated, "live": self._live}

    def close(self) -> None:
        """Ends what is being made."""
        self._reports.close()

    def answer(self, target: str) -> Answer:
        """The answer to GET `target`, a path with its query."""
        path, _, query = target.partition("#")[0].partition("?")
        name = self._root.name or str(self._root)
        try:
            if path == ALL:
                return self._table(query)
            view, _, inner = path.removeprefix("/").partition("/")
            folder = places.find(self._root, inner) if view in self._views else None
            if folder is None or not places.kind(folder):
                return said(404, "Nothing is here", f"No page has the address {urllib.parse.unquote(path)[:200]}")
            name = folder.name
            if places.kind(folder) in places.WRITTEN.values():
                return self._written(folder, view)
            return self._views[view](folder, places.quoted(self._root, folder))
        except InputError as error:
            return said(422, f"{name} can't be shown", str(error))
        except Exception as error:  # a foreign file that no reader expects, or gone meanwhile
            reason = (str(error).splitlines() or ["no message"])[0]
            return said(422, f"{name} can't be shown", f"{type(error).__name__}: {reason}")

    def _table(self, query: str) -> Answer:
        try:
            asked = overview.Asked.read(query)
            return Answer(200, self._listed.shown(asked, lambda runs: overview.page(self._root, runs, asked).html()[0]))
        except InputError as error:
            return said(400, "This table can't be shown", str(error))

    def _written(self, place: Path, view: str) -> Answer:
        """A ranking or a diagnosis, at the address of its file: nothing of it goes on or can be evaluated again."""
        path = places.written(place)[0] if place.is_dir() else place
        if view == "report" and path == place:
            return Answer(200, linked(self._reports.quick(path), {}))
        return _elsewhere(f"/report/{places.quoted(self._root, path)}")

    def _report(self, folder: Path, address: str) -> Answer:
        if not _reported(folder):
            return _elsewhere(f"/live/{address}")
        more = {"With val evaluated again: mistakes, calibration, movements": f"/evaluated/{address}"}
        return Answer(200, linked(self._reports.quick(folder), self._cells(folder) | more))

    def _evaluated(self, folder: Path, address: str) -> Answer:
        if not _reported(folder):
            return _elsewhere(f"/live/{address}")
        links = self._cells(folder) | {"From files alone": f"/report/{address}"}
        try:
            return Answer(200, linked(self._reports.evaluated(folder), links))
        except Waiting as waiting:
            turn = f"{waiting.before} report{'s' * (waiting.before > 1)} before it. " if waiting.before else ""
            lead = f"Val is evaluated again, on the CPU: {numbers.seconds(waiting.seconds)} so far. {turn}"
            about = {"title": f"{folder.name}: being made", "lead": f"{lead}The report takes the place of this page."}
            page = Page(kind="report", **about, tiles={}, sections=[], refresh=SOON)
            return Answer(202, linked(page.html()[0], links))

    def _live(self, folder: Path, address: str) -> Answer:
        places.fingerprint(self._root, folder)  # refuses links that lead out, as a report does
        if places.kind(folder) == places.RUN:
            if _reported(folder):
                return _elsewhere(f"/report/{address}")
            page = progress.of_run(self._listed.at(folder))
            return Answer(200, linked(page.html()[0], self._cells(folder)))
        links = {"Report": f"/report/{address}"} if _reported(folder) else {}
        text = self._listed.shown(folder, lambda runs: progress.of_cells(self._root, folder, runs).html()[0])
        return Answer(200, linked(text, links))

    def _cells(self, folder: Path) -> dict[str, str]:
        """A link to the cells of a sweep or a comparison, or to those that a run is one of."""
        of = folder.parent.parent if folder.parent.name == "cells" else folder
        if of.is_relative_to(self._root) and places.kind(of) in (places.SWEEP, places.COMPARISON):
            return {"Cells": f"/live/{places.quoted(self._root, of)}"}
        return {}


def said(status: int, title: str, lead: str) -> Answer:
    """A page of one sentence."""
    page = Page(kind=str(status), title=title, lead=lead, tiles={}, sections=[])
    return Answer(status, linked(page.html()[0], {}))


def linked(html: str, links: Mapping[str, str]) -> str:
    """A page with links above it: to all runs, and {text: address}."""
    items = (tag("li", tag("a", name, href=address)) for name, address in ({"All runs": ALL} | links).items())
    above = tag("nav", tag("div", tag("ul", *items), class_="wrap"), aria_label="Pages")
    return html.replace("<header>", Markup(f"{above}\n<header>"), 1)


def _reported(folder: Path) -> bool:
    """Whether `jaxfer report` may have something to say of what is there; of a sweep, once a cell is finished."""
    kind = places.kind(folder)
    if kind == places.SWEEP:
        return any(folder.glob("cells/*/result.json"))
    return (folder / (places.COMPARED if kind == places.COMPARISON else "result.json")).exists()


def _elsewhere(location: str) -> Answer:
    return said(303, "Look there", location)._replace(location=location)
