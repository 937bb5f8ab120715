"""Findings of `jaxfer doctor`: on a page of their own, and in the data sheet of a folder that holds its doctor.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from etils import epath

from jaxfer import json_files
from jaxfer.diagnosis.finding import SEVERE, SEVERITIES
from jaxfer.reports import numbers
from jaxfer.reports.page import Part
from jaxfer.reports.tables import plain, table, text

FILE = "doctor.json"  # in the folder of a run, a sweep or a comparison
FIX = "write it again with `jaxfer doctor CONFIG --json`"


class _Finding(TypedDict):
    severity: str
    kind: str
    message: str
    fix: str
    examples: tuple[Mapping[str, Any], ...]


class Asked(TypedDict):
    """The command that wrote a file."""

    config: str
    overrides: Mapping[str, Any]


class Newer(TypedDict, total=False):
    """What an older file has not."""

    command: Asked | None
    versions: Mapping[str, str]


class Diagnosis(Newer):
    """The JSON of `jaxfer doctor --json`."""

    findings: tuple[_Finding, ...]
    examples: Mapping[str, int]
    seconds: float


def counted(found: Mapping[str, Any]) -> str:
    """`1 severe, 2 warnings, 0 notes`."""
    counts = {name: sum(f["severity"] == name for f in found["findings"]) for name in SEVERITIES}
    return ", ".join(
        f"{count:,} {name}{'s' if count != 1 and name != SEVERE else ''}" for name, count in counts.items()
    )


def beside(folder: epath.Path) -> list[Part]:
    """The findings of the folder's doctor.json with their numbers and fixes; [] without one.

    Raises:
      InputError: another file.
    """
    if not (folder / FILE).exists():
        return []
    found = json_files.read(folder / FILE, Diagnosis, fix=FIX)
    rows = [
        [text(f["severity"]), text(f["kind"]), text(f["message"])]
        + [plain(f.get("value")), plain(f.get("threshold")), text(f["fix"])]
        for f in found["findings"]
    ]
    headers = ("severity", "kind", "finding", "value", "threshold", "fix")
    looked = ", ".join(f"{count:,} examples of {name}" for name, count in found["examples"].items())
    caption = f"jaxfer doctor found {counted(found)} in {looked}, in {numbers.seconds(found['seconds'])}"
    return [Part(content=table(headers, rows, caption=caption, link="doctor"), name="table of the doctor's findings")]
