"""What a comparison measured beside its metric, as columns: other metrics, corrupted inputs, the source's task."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.evals.verdicts import SURE
from jaxfer.reports import numbers
from jaxfer.reports.comparison import SCRATCH, Arm, Compared
from jaxfer.reports.page import Part, Section
from jaxfer.reports.tables import Cell, mean, score, table, text
from jaxfer.reports.verdicts import at


def measures(compared: Compared) -> tuple[list[str], set[str]]:
    """(names of the measures, those that are judged against scratch); none where nothing else was asked for."""
    found = [part for arm in compared.arms for part in arm.found.get("beside") or ()]
    return list(dict.fromkeys(part["name"] for part in found)), {p["name"] for p in found if p["effect"] is not None}


def headers(name: str, judged: bool) -> list[str]:
    """Of the columns of a measure."""
    return [name, f"{name} over scratch, 95 %"] if judged else [name]


def cells(arm: Arm, name: str, judged: bool) -> list[Cell]:
    """The mean over seeds, and where it is judged the gain over scratch in the measure's own sign."""
    part = next((part for part in arm.found.get("beside") or () if part["name"] == name), None)
    if part is None:
        return [text(None, "")] * len(headers(name, judged))
    values = [value for value in part["test"] if numbers.known(value)]
    shown = mean(values if len(values) == len(part["test"]) else [])
    if not judged:
        return [shown]
    if part["effect"] is None:
        return [shown, text(None, "")]
    sign = 1 if part["maximize"] else -1
    low, high = sorted(sign * bound if bound is not None else float("nan") for bound in part["interval95"])
    effect = sign * part["effect"]
    return [shown, text(effect, f"{numbers.gain(effect, low, high)}{'*' if _stands(part) else ''}")]


def shift(compared: Compared) -> list[Section]:
    """The test score under each corruption of the inputs, worst first for the best arm; [] where it is not known."""
    parts, title = [], ""
    for labels in compared.labels:
        arms = [
            (arm, part) for arm in compared.at(labels) for part in arm.found.get("beside") or () if part.get("each")
        ]
        best = next((part for arm, part in arms if arm is compared.best(labels)), None)
        if best is None:
            continue
        order = sorted(best["each"], key=lambda name: _rank(_middle(best["each"][name]), best["maximize"]))
        rows = [[text("none"), *(score(arm.mean) for arm, _ in arms)]]
        rows += [[text(name), *(score(_middle(part["each"].get(name, ()))) for _, part in arms)] for name in order]
        where = at(labels, compared)
        severity = compared.protocol.get("beside", {}).get("severity", "?")
        caption = f"Test {compared.metric}{where} under each corruption at severity {severity}, means over seeds"
        link = f"corruptions-{labels}"
        content = table(("corruption", *(arm.name for arm, _ in arms)), rows, caption=caption, link=link)
        parts.append(Part(content=content, name=f"table {link}"))
        worst, name = numbers.score(_middle(best["each"][order[0]])), compared.best(labels).name
        title = title or f"{order[0]} hurts {name} most: {worst} test {compared.metric}{where}"
    return [Section(name="Shift", title=title, parts=parts)] if parts else []


def _middle(values: Sequence[float | None]) -> float | None:
    """The mean over the seeds; None where one is not known."""
    return statistics.fmean(values) if values and None not in values else None


def _rank(value: float | None, maximize: bool) -> float:
    return math.inf if value is None else value if maximize else -value


def about(compared: Compared) -> str:
    """A sentence or two on these columns; empty without them."""
    arms = [(arm, part) for arm in compared.arms for part in arm.found.get("beside") or ()]
    if not arms:
        return ""
    told = sum(_stands(part) for _, part in arms)
    said = f" Of the other measures' differences to scratch {told} {'stands' if told == 1 else 'stand'} (*) by Holm's"
    said += " correction for all arms and measures; gains have each measure's own sign."
    before = [part["before"] for arm, part in arms if arm.name != SCRATCH and part["before"]]
    if before:
        said += f" The source reached {numbers.score(before[0])} on its own val split, which `on the source` reads."
    return said


def _stands(part: Mapping[str, Any]) -> bool:
    return part["p_holm"] is not None and part["p_holm"] < SURE
