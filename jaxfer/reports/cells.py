"""The cells of a sweep or a comparison, as cells.json names them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, TypedDict

from etils import epath

from jaxfer import files, json_files
from jaxfer.errors import InputError


class _Cell(TypedDict):
    name: str
    group: str
    folder: str
    overrides: Mapping[str, Any]
    status: str


def cells(folder: epath.Path) -> list[dict[str, Any]]:
    """The entries of a cells.json, checked: a cell lies in the folder's `cells`."""
    path = folder / "cells.json"
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would block
            raise OSError("not a regular file")
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: expected the JSON of a sweep's cells ({reason}); {files.FIX}") from None
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a list of cells, found a {type(content).__name__}; {files.FIX}")
    for entry in content:
        if not isinstance(entry, dict):
            raise InputError(f"{path}: expected cells, found a {type(entry).__name__}; {files.FIX}")
        json_files.check(entry, _Cell, str(path), fix=files.FIX)
        if not re.fullmatch(r"cells/\w+", entry["folder"]):
            raise InputError(f"{path}: expected a folder cells/KEY, found {entry['folder']!r}; {files.FIX}")
    return content
