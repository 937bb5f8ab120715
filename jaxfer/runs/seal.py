"""The seal: a comparison's runs can't be read on test before the selection that names them is on disk.

A comparison's folder holds protocol.json, later selection.json beside the time it was made (opened.json), and its runs
under cells/. `run`, `evaluate` and `score`, the only ways to a test score, ask here, and so does `features`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.runs import records

PROTOCOL, SELECTION, OPENED = "protocol.json", "selection.json", "opened.json"
STAMP = "%Y-%m-%dT%H:%M:%SZ"  # of a time in opened.json, UTC


def check(run: epath.Path) -> None:
    """Raises `InputError` where the folder is a comparison's run that no selection names (yet)."""
    whole = run if files.remote(run) else run.resolve()
    comparison = whole.parent.parent
    if not (comparison / PROTOCOL).exists():
        return
    selection = comparison / SELECTION
    if not selection.exists():
        raise InputError(f"{run}: its test split is sealed until {comparison} has a {SELECTION}; let compare finish")
    if whole.name not in files.read_json(selection, records.Selection)["opened"]:
        raise InputError(f"{run}: its test split is sealed: {selection} selected other runs; evaluate it on val")


def check_export(place: epath.Path, run: str | None) -> None:
    """Checks an export, a folder or a file, like `check`: the run that it names and the run whose folder it lies in."""
    for path in (place.parent, place.parent.parent, *([epath.Path(run)] if run else [])):
        check(path)


def write_selection(comparison: epath.Path, record: Mapping[str, Any], opened: Iterable[str]) -> None:
    """Names the runs whose test split may be read from now on. A selection is made once.

    Raises:
      InputError: another selection is there already.
    """
    record = json.loads(json.dumps({**record, "opened": sorted(opened)}))  # as it will be read
    path = comparison / SELECTION
    if path.exists():
        if files.read_json(path) != record:
            raise InputError(f"{path} records another selection, and test may have been read; use another --workdir")
        return
    files.write_json(comparison / OPENED, {"time": f"{datetime.datetime.now(datetime.UTC):{STAMP}}"})
    files.write_json(path, record)


def opened(comparison: epath.Path) -> str:
    """When the test split was opened, such as `2026-11-30 14:05 UTC`; empty where no file says so.

    Raises:
      InputError: the file holds no time.
    """
    path = comparison / OPENED
    if not path.exists():
        return ""
    time = files.read_json(path, records.Opened)["time"]
    try:
        when = datetime.datetime.strptime(time, STAMP)
    except ValueError:
        raise InputError(f"{path}: expected a time, found {time!r}; {files.FIX}") from None
    return f"{when:%Y-%m-%d %H:%M} UTC"
