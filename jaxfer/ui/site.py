"""What an address shows."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import NamedTuple

from jaxfer.errors import InputError
from jaxfer.reports.page import Page
from jaxfer.ui import overview
from jaxfer.ui.listed import Listed


class Answer(NamedTuple):
    """An answer to a request: its status code, its HTML, and where else to look."""

    status: int
    html: str
    location: str = ""


class Site:
    """The pages on a folder of runs."""

    def __init__(self, root: Path):
        self._root, self._listed = root, Listed(root)

    def answer(self, target: str) -> Answer:
        """The answer to GET `target`, a path with its query."""
        path, _, query = target.partition("#")[0].partition("?")
        if path == "/":
            try:
                asked = overview.Asked.read(query)
                page = overview.page(self._root, self._listed.runs(), asked)
            except InputError as error:
                return said(400, "This table can't be shown", str(error))
            return Answer(200, page.html()[0])
        return said(404, "Nothing is here", f"No page has the address {urllib.parse.unquote(path)[:200]}")


def said(status: int, title: str, lead: str) -> Answer:
    """A page of one sentence."""
    return Answer(status, Page(kind=str(status), title=title, lead=lead, tiles={}, sections=[]).html()[0])
