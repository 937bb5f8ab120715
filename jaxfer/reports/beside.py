"""What a comparison measured beside its metric: other metrics, corrupted inputs, what is left of the source's task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxfer.evals.verdicts import SURE
from jaxfer.reports import numbers
from jaxfer.reports.comparison import SCRATCH, Compared
from jaxfer.reports.methods import mean
from jaxfer.reports.page import Part, Section, paragraph
from jaxfer.reports.tables import Cell, table, text
from jaxfer.reports.verdicts import at


def section(compared: Compared) -> Section | None:
    """A table for each label count; None where nothing else was asked for."""
    if not compared.arms[0].found.get("beside"):
        return None
    parts, told = [], []
    for labels in compared.labels:
        arms = compared.at(labels)
        measures = {arm.name: {part["name"]: part for part in arm.found["beside"]} for arm in arms}
        judged = {name for of in measures.values() for name, part in of.items() if part["effect"] is not None}
        names = list(measures[arms[0].name])
        headers = ["method", *(header for name in names for header in _headers(name, name in judged))]
        rows = [
            [text(arm), *(cell for name in names for cell in _cells(of[name], name in judged))]
            for arm, of in measures.items()
        ]
        link = f"beside-{labels}"
        content = table(headers, rows, caption=f"Beside {compared.metric}{at(labels, compared)}", link=link)
        parts.append(Part(content=content, name=f"table {link}"))
        told += [(arm, name) for arm, of in measures.items() for name, part in of.items() if _stands(part)]
    before = [p["before"] for a in compared.arms if a.name != SCRATCH for p in a.found["beside"] if p["before"]]
    about = "Gains over scratch have each measure's own sign; * stands by Holm's correction for all arms and measures."
    if before:
        about += (
            f" The source itself reached {numbers.score(before[0])} on its own val split, which `on the source` reads."
        )
    parts.append(paragraph(about, muted=True))
    title = (
        f"{len(told)} of the other differences to scratch stand" if told else "No other difference to scratch stands"
    )
    return Section(name="Beside", title=title, parts=parts)


def _headers(name: str, judged: bool) -> list[str]:
    return [name, "over scratch, 95 %"] if judged else [name]


def _cells(part: Mapping[str, Any], judged: bool) -> list[Cell]:
    values = [value for value in part["test"] if numbers.known(value)]
    shown = mean(values if len(values) == len(part["test"]) else [])
    if not judged:
        return [shown]
    if part["effect"] is None:
        return [shown, text(None, "")]
    sign = 1 if part["maximize"] else -1
    low, high = sorted(sign * bound if bound is not None else float("nan") for bound in part["interval95"])
    interval = f"[{numbers.signed(low)}, {numbers.signed(high)}]{'*' if _stands(part) else ''}"
    return [shown, text(sign * part["effect"], f"{numbers.signed(sign * part['effect'])} {interval}")]


def _stands(part: Mapping[str, Any]) -> bool:
    return part["p_holm"] is not None and part["p_holm"] < SURE
