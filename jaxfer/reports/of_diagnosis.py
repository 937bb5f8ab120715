"""The report of `jaxfer doctor --json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxfer.diagnosis.finding import SEVERE, WARNING
from jaxfer.reports import findings, lineage, numbers
from jaxfer.reports.markup import Markup, tag
from jaxfer.reports.page import Page, Part, Section, paragraph

LOOK = {SEVERE: "bad", WARNING: "even"}
SHOWN, TOGETHER = 500, 20  # findings that a page has, and those that it has or leaves out together


def page(found: Mapping[str, Any]) -> Page:
    """The findings, the worst first, what was looked at, and the command."""
    looked = ", ".join(f"{count:,} examples of {name}" for name, count in found["examples"].items())
    total, of = sum(found["examples"].values()), found["findings"]
    parts = [
        Part(content=tag("ul", *map(_finding, of[i : i + TOGETHER]), class_="verdicts"), name=_named(i, len(of)))
        for i in range(0, min(len(of), SHOWN), TOGETHER)
    ]
    if len(of) > SHOWN:
        parts.append(paragraph(f"{len(of) - SHOWN:,} more findings are in the file alone.", muted=True))
    sections = [
        Section(name="Findings", title=f"Findings: {findings.counted(found)}", parts=parts),
        Section(name="Looked at", title=f"{total:,} examples were looked at", parts=[paragraph(f"{looked}.")]),
        lineage.of_file("doctor", found, {}),
    ]
    lead = f"Looked at {looked} in {numbers.seconds(found['seconds'])}; no label of the test split was read."
    title = of[0]["message"] if of else "Nothing was found."
    return Page(kind="diagnosis", title=title, lead=lead, tiles={}, sections=sections)


def headline(found: Mapping[str, Any]) -> str:
    """How many findings of each severity."""
    return findings.counted(found)


def _named(begin: int, count: int) -> str:
    return f"findings {begin + 1} to {min(begin + TOGETHER, count, SHOWN)}"


def _finding(found: Mapping[str, Any]) -> Markup:
    examples = [
        tag("li", f"{e.get('split', '')} {e.get('row', '')} {e.get('name', '')}: {e.get('says', '')}")
        for e in found["examples"]
    ]
    limit = f"{numbers.plain(found.get('value'))}, threshold {numbers.plain(found.get('threshold'))}"
    return tag(
        "li",
        tag("span", found["severity"], class_="badge"),
        f" {found['kind']}: {found['message']}",
        tag("p", f"Fix: {found['fix']}."),
        tag("p", f"Value {limit}.", class_="muted small"),
        tag("ul", *examples) if examples else "",
        class_=LOOK.get(found["severity"], "plain"),
    )
