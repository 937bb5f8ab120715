"""Scores of groups of examples (`data.group`), of one run or of several side by side."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.reports.page import Part, Section
from jaxfer.reports.tables import plain, score, table, text, whole


def of_result(result: Mapping[str, Any]) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
    """(split, {group: its numbers}) of test if it was read, else of val; no groups: {}."""
    split = next((split for split in ("test", "val") if split in result["metrics"]), "val")
    return split, result.get("report", {}).get(split, {}).get("groups", {})


def of_one(result: Mapping[str, Any]) -> list[Part]:
    """The table of a run; [] where it has no groups."""
    split, groups = of_result(result)
    if not groups:
        return []
    inner = list(dict.fromkeys(key for found in groups.values() for key in found))
    rows = [[text(name), *(plain(found.get(key)) for key in inner)] for name, found in groups.items()]
    return [Part(content=table(("group", *inner), rows, caption=f"Groups of {split}"), name="table groups")]


def side_by_side(results: Mapping[str, Sequence[Mapping[str, Any]]], caption: str) -> list[Part]:
    """A row for each group, a column for each of {name: its runs}: mean accuracy over the runs; [] without groups."""
    found = {name: [of_result(result) for result in runs] for name, runs in results.items()}
    found = {name: runs for name, runs in found.items() if runs and all(groups for _, groups in runs)}
    if not found:
        return []
    split, first = next(iter(found.values()))[0]
    rows = []
    for group in dict.fromkeys(group for runs in found.values() for _, groups in runs for group in groups):
        means = [[groups.get(group, {}).get("accuracy") for _, groups in runs] for runs in found.values()]
        shown = [score(statistics.fmean(values) if None not in values else None) for values in means]
        rows.append([text(group), whole(first.get(group, {}).get("support")), *shown])
    rows.sort(key=lambda row: min((cell.value for cell in row[2:] if cell.value is not None), default=1.0))
    headers = ("group", "examples", *found)
    title = f"{split.capitalize()} accuracy of each group{caption}, means over the runs, the worst first"
    link = f"groups{''.join(c if c.isalnum() else '-' for c in caption)}"
    return [Part(content=table(headers, rows, caption=title, link=link), name="table groups")]


def among_errors(sections: Sequence[Section], found: Sequence[Part]) -> list[Section]:
    """The sections with a table of groups among the errors; a section of its own at the end where there are none."""
    if found and all(section.name != "Errors" for section in sections):
        return [*sections, Section(name="Errors", title="Scores of the groups", parts=found)]
    return [
        dataclasses.replace(section, parts=[*section.parts, *found]) if section.name == "Errors" else section
        for section in sections
    ]
