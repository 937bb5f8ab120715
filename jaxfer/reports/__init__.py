"""`jaxfer report`: one HTML file on a run, a sweep, a comparison, a diagnosis or a ranking.

`page.py` is the frame, `svg.py` and `charts.py` draw; an `of_*.py` makes the page of one kind of thing.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.reports import comparison, findings, of_comparison, of_json, of_ranking, of_run, of_sweep
from jaxfer.reports.page import LIMIT, Page
from jaxfer.runs import seal
from jaxfer.runs.folder import holds_run

__all__ = ["Written", "made", "report"]

NAME = "report.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """A report on disk.

    Attributes:
      path: the file.
      kind: what it is about.
      title: its first finding.
      size: bytes.
      left_out: what it had no room for.
    """

    path: epath.Path
    kind: str
    title: str
    size: int
    left_out: tuple[str, ...]


def report(
    path: str | epath.Path, *, out: str | epath.Path | None = None, evaluate: bool = True, limit: int = LIMIT
) -> Written:
    """Writes one HTML file that needs no network and no script.

    Args:
      path: the folder of a finished run, of a sweep or of a comparison; or a .json file that `jaxfer doctor --json` or
        `jaxfer rank --out` wrote, or a folder with one of them, doctor.json or rank.json.
      out: the file; default report.html in the folder, or beside the file.
      evaluate: evaluate val of the run in detail once more, for mistakes, calibration and movements; the test split is
        not read.
      limit: bytes; parts that do not fit are left out, and counted.

    Raises:
      InputError: nothing that could be reported on, an unfinished run or comparison, a damaged file, or no folder to
        write into.
    """
    place = files.opened(path)
    make = _maker(place)
    target = _target(place, out)  # refused before anything is computed
    page = make(place, evaluate=evaluate)
    text, left_out = page.html(limit)
    data = text.encode(errors="backslashreplace")
    files.write_bytes(target, data)
    return Written(path=target, kind=page.kind, title=page.title, size=len(data), left_out=left_out)


def made(path: str | epath.Path, *, evaluate: bool = True) -> Page:
    """The page that `report` writes, not written.

    Raises:
      InputError: as `report` does.
    """
    place = files.opened(path)
    return _maker(place)(place, evaluate=evaluate)


def _maker(place: epath.Path) -> Callable[..., Page]:
    if not place.exists():
        raise InputError(f"expected a folder of a run, a sweep or a comparison, found nothing at {place}")
    if not place.is_dir():
        return of_json.page
    if (place / seal.PROTOCOL).exists() or (place / comparison.FILE).exists():
        return of_comparison.page
    if (place / "cells.json").exists():
        return of_sweep.page
    if holds_run(place):
        return of_run.page
    written = [place / name for name in (of_ranking.FILE, findings.FILE) if (place / name).exists()]
    if len(written) > 1:
        raise InputError(f"{place} holds {written[0].name} and {written[1].name}; name one of the two files")
    if written:
        return lambda place, *, evaluate: of_json.page(written[0], evaluate=evaluate)
    raise InputError(
        f"nothing to report on in {place}: expected a folder that `jaxfer run`, sweep or compare wrote, or the .json "
        "of `jaxfer doctor --json` or `jaxfer rank --out`"
    )


def _target(place: epath.Path, out: str | epath.Path | None) -> epath.Path:
    if out is None:
        return (place if place.is_dir() else place.parent) / NAME
    if not str(out):
        raise InputError("--out: expected a file, found ''; name one, or omit --out")
    target = files.opened(os.path.expanduser(out))
    if target.suffix.lower() not in (
        ".html",
        ".htm",
    ):  # a name such as result.json would be the end of a run's own file
        raise InputError(f"--out: expected a file named .html, found {str(out)!r}; rename it")
    if not files.remote(target) and (target.is_dir() or not Path(target).absolute().parent.is_dir()):
        raise InputError(f"--out: expected a file in a folder that exists, found {str(out)!r}; make its folder")
    return target
