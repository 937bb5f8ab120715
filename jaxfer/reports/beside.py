"""What a comparison measured beside its metric, as columns: other metrics, corrupted inputs, the source's task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxfer.evals.verdicts import SURE
from jaxfer.reports import numbers
from jaxfer.reports.comparison import SCRATCH, Arm, Compared
from jaxfer.reports.tables import Cell, mean, text


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
    interval = f"[{numbers.signed(low)}, {numbers.signed(high)}]{'*' if _stands(part) else ''}"
    return [shown, text(sign * part["effect"], f"{numbers.signed(sign * part['effect'])} {interval}")]


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
