"""What lies below the folder that is served: found by names alone, and never by way of a link that leads out."""

from __future__ import annotations

import hashlib
import os
import stat
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from jaxfer.errors import InputError
from jaxfer.files import LONGEST_PATH
from jaxfer.reports import findings, of_ranking
from jaxfer.reports.comparison import FILE as COMPARED
from jaxfer.runs import seal
from jaxfer.runs.folder import LOCK
from jaxfer.runs.survey import INNER, leads_out

RUN, SWEEP, COMPARISON = "run", "sweep", "comparison"
RANKING, DIAGNOSIS = "ranking", "diagnosis"
WRITTEN = {of_ranking.FILE: RANKING, findings.FILE: DIAGNOSIS}  # files that are a place of their own


def find(root: Path, path: str) -> Path | None:
    """The place of an address such as `sweep/cells/00aa`, still quoted; None where there is none that is served.

    Each part has to be the name of a folder that is not hidden, the last one may be the name of one of WRITTEN; what
    quoting could smuggle in is no such name.
    """
    if len(path) > LONGEST_PATH:
        return None
    folder, bound = root, os.path.realpath(root)
    for quoted in path.removesuffix("/").split("/") if path else ():
        name = urllib.parse.unquote(quoted, errors="surrogateescape")
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            return None
        folder = folder / name
        try:
            if leads_out(folder, bound) or not (folder.is_dir() or _written(folder)):
                return None
        except OSError:  # a name too long
            return None
    return folder


def quoted(root: Path, folder: str | Path) -> str:
    """The address of a place below the root; empty for the root."""
    path = os.path.relpath(folder, root)
    return "" if path == "." else urllib.parse.quote(path, errors="surrogateescape")


def kind(folder: Path) -> str:
    """What the folder holds, or the file is: RUN, SWEEP, COMPARISON, RANKING, DIAGNOSIS, or nothing ("")."""
    if _written(folder):
        return WRITTEN[folder.name]
    if any((folder / name).is_file() for name in (seal.PROTOCOL, COMPARED)):
        return COMPARISON
    if (folder / "cells.json").is_file():
        return SWEEP
    if (folder / "config.json").is_file():
        return RUN
    return next((WRITTEN[path.name] for path in written(folder)), "")


def written(folder: Path) -> list[Path]:
    """The files of a folder that are places of their own."""
    return [folder / name for name in WRITTEN if _written(folder / name)]


def _written(path: Path) -> bool:
    return path.name in WRITTEN and path.is_file()


def collections(root: Path) -> Iterator[Path]:
    """Every sweep, comparison, ranking and diagnosis in the root or below it; cells are not entered."""
    bound = os.path.realpath(root)
    for folder, inner, _ in os.walk(root):
        found = kind(Path(folder)) in (SWEEP, COMPARISON)
        if found:
            yield Path(folder)
        yield from (path for path in written(Path(folder)) if not leads_out(path, bound))
        left = INNER | {"cells"} if found else INNER
        inner[:] = sorted(name for name in inner if name not in left and not name.startswith("."))


def fingerprint(root: Path, folder: Path) -> str:
    """64 hexadecimal digits that change with the names, sizes and times of the files in a folder, or of one file.

    Raises:
      InputError: a link in it leads out of the root, or a pipe lies in it.
    """
    bound, found = os.path.realpath(root), hashlib.sha256()
    for place, inner, names in os.walk(folder) if folder.is_dir() else [(folder.parent, [], [folder.name])]:
        inner.sort()
        for name in sorted((*names, *inner)):
            path = os.path.join(place, name)
            if leads_out(path, bound):
                raise InputError(f"{path} is a link that leads out of {root}; it is not followed")
            if name in names and name != LOCK:
                try:
                    now = os.stat(path)
                except OSError:  # a link to nothing, or gone by now
                    continue
                if not stat.S_ISREG(now.st_mode):  # opening a pipe would block
                    raise InputError(f"{path}: expected a file, found a pipe or a device; remove it")
                found.update(f"{path}\0{now.st_size}\0{now.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return found.hexdigest()
