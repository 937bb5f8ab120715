"""The report of a .json file: of `jaxfer doctor --json` or of `jaxfer rank --out`."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from etils import epath

from jaxfer import json_files
from jaxfer.errors import InputError
from jaxfer.reports import of_diagnosis, of_ranking
from jaxfer.reports.findings import Diagnosis
from jaxfer.reports.page import Page

FIX = "write it again with `jaxfer doctor CONFIG --json` or `jaxfer rank CONFIG --out=FOLDER`"


def page(path: epath.Path, *, evaluate: bool = True) -> Page:
    """The page of either; nothing is evaluated.

    Raises:
      InputError: another file.
    """
    of, content = _read(path)
    return of.page(content)


def headline(path: epath.Path) -> str:
    """What is found, in a line.

    Raises:
      InputError: another file.
    """
    of, content = _read(path)
    return of.headline(content)


def _read(path: epath.Path) -> tuple[ModuleType, Mapping[str, Any]]:
    """(the module of its pages, its content)."""
    content = json_files.read(path, fix=FIX)
    if "candidates" in content:
        json_files.check(content, of_ranking.Ranking, str(path), fix=FIX)
        return of_ranking, content
    if "findings" in content and "counts" in content:
        json_files.check(content, Diagnosis, str(path), fix=FIX)
        return of_diagnosis, content
    raise InputError(f"{path}: expected the JSON of `jaxfer doctor --json` or of `jaxfer rank --out`; {FIX}")
