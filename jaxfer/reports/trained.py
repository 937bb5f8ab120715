"""What a run trained: each unit's groups and rates, stage by stage, and how far it moved from where it began."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfer.reports import charts, grids, numbers
from jaxfer.reports.page import Part, Section, paragraph
from jaxfer.reports.tables import Cell, score, table, text, whole
from jaxfer.stages import Stage

ADDED = "added by the method"
UNITS = 60  # in a figure


class Row(NamedTuple):
    """A unit in a stage: its parameters, those that are trained, their groups and their peak rates."""

    stage: str
    unit: str
    parameters: int
    trained: int
    groups: tuple[str, ...]
    rates: tuple[float, ...]


def rows(stages: Sequence[Stage]) -> list[Row]:
    """Each unit of each stage, in depth order."""
    found = []
    for stage in stages:
        sizes = {path: math.prod(leaf.shape) for path, leaf in stage.leaves().items()}
        hparams: dict[str, Any] = {name: np.float64(value) for name, value in stage.hparams.items()}
        units: dict[str, list[tuple[str, Any]]] = {unit: [] for unit in stage.spec.port.units}
        for path, leaf in stage.spec.leaves:
            units.setdefault(stage.spec.port.unit(path) or ADDED, []).append((path, leaf))
        for unit, leaves in units.items():
            chosen = [(path, leaf) for path, leaf in leaves if leaf is not None]
            fitted = stage.spec.method.at_once is not None
            rates = () if fitted else tuple(sorted({float(leaf.rate(hparams)) for _, leaf in chosen}))
            groups = tuple(dict.fromkeys(leaf.group for _, leaf in chosen))
            total, trained = sum(sizes[p] for p, _ in leaves), sum(sizes[p] for p, _ in chosen)
            if leaves:
                found.append(Row(stage.name, unit, total, trained, groups, rates))
    return found


def section(
    stages: Sequence[Stage], moved: Mapping[str, float], alike: Mapping[str, float], notes: Sequence[str]
) -> Section:
    """A strip of units, figures of their movements and of what they give beside what they gave, and the table."""
    found = rows(stages)
    parts = [_strip(found)] if len({row.unit for row in found}) <= UNITS else []
    if moved and len(moved) <= UNITS:
        parts.append(_moved(moved))
    if alike and len(alike) <= UNITS:
        parts.append(_alike(alike))
    cells = [_cells(row, moved, alike, row.stage == found[-1].stage, len(stages) > 1) for row in found]
    headers = [*(["stage"] if len(stages) > 1 else []), "unit", "parameters", "trained", "group", "peak rate"]
    headers += [*(["moved"] if moved else []), *(["CKA"] if alike else [])]
    parts.append(Part(content=table(headers, cells, caption="Units, input first", link="units"), name="table units"))
    parts += [paragraph(note, muted=True) for note in notes]
    last = [row for row in found if row.stage == found[-1].stage]
    share = sum(row.trained for row in last) / max(sum(row.parameters for row in last), 1)
    title = f"{numbers.percent(share)} of the parameters were trained"
    if moved:
        most = max(moved, key=moved.__getitem__)
        title += f"; {most} moved most, by {numbers.percent(moved[most])} of its length"
    return Section(name="Trained", title=title, parts=parts)


def _cells(row: Row, moved: Mapping[str, float], alike: Mapping[str, float], last: bool, many: bool) -> list[Cell]:
    rates = _rates(row)
    cells = [*([text(row.stage)] if many else []), text(row.unit), whole(row.parameters), whole(row.trained)]
    cells += [text(", ".join(row.groups) or "frozen"), Cell(row.rates[-1] if row.rates else None, rates)]
    length, kept = (of.get(row.unit) if last else None for of in (moved, alike))
    cells += [Cell(length, numbers.percent(length))] if moved else []
    return [*cells, *([score(kept)] if alike else [])]


def _rates(row: Row) -> str:
    """Its peak rate, or the lowest and the highest; a dash where nothing is trained by steps."""
    return " to ".join(map(numbers.plain, dict.fromkeys((*row.rates[:1], *row.rates[-1:])))) or numbers.NONE


def _strip(found: Sequence[Row]) -> Part:
    groups = list(dict.fromkeys(group for row in found for group in row.groups))
    places = {group: i + 1 for i, group in enumerate(groups)}
    strips: dict[str, dict[str, tuple[int, str, str]]] = {}
    for row in found:
        about = f"{row.unit}: {numbers.whole(row.trained)} of {numbers.whole(row.parameters)} parameters trained"
        about += f", at a rate of {_rates(row)}" if row.rates else ""
        series = places[row.groups[0]] if row.groups else 0
        short = f"{row.rates[-1]:.0e}".replace("e-0", "e-") if row.rates else ""
        strips.setdefault(row.stage, {})[row.unit] = (series, about, short)
    title = "Which units were trained, at which rate"
    drawn = grids.strips("trained-units", title, strips)
    cells = [
        [text(r.unit), text(r.stage), whole(r.parameters), whole(r.trained), text(", ".join(r.groups))]
        + [Cell(r.rates[-1] if r.rates else None, _rates(r))]
        for r in found
    ]
    headers = ("unit", "stage", "parameters", "trained", "group", "peak rate")
    legend = {"frozen": 0, **places}
    about = (
        "From the input on the left to the head; the colour is the group, grey is frozen; in the box is its peak rate, "
        "rounded."
    )
    return charts.figure("trained-units", title, about, drawn, headers, cells, legend=legend)


def _moved(moved: Mapping[str, float]) -> Part:
    title = "How far each unit moved"
    about = "Length of the change over the length of what the run began with, ‖w − w₀‖ / ‖w₀‖; adapters merged."
    drawn = charts.bars("moved", title, moved, x_name="‖w − w₀‖ / ‖w₀‖", show=numbers.percent)
    cells = [[text(unit), Cell(value, numbers.plain(value))] for unit, value in moved.items()]
    return charts.figure("moved", title, about, drawn, ("unit", "moved"), cells)


def _alike(alike: Mapping[str, float]) -> Part:
    title = "How alike each unit sees val before and after"
    about = "Linear CKA of what the unit gives, as means over places or tokens; 1: the same but for rotation and scale."
    drawn = charts.bars("alike", title, alike, x_name="CKA with the beginning", show=numbers.score)
    cells = [[text(unit), score(value)] for unit, value in alike.items()]
    return charts.figure("alike", title, about, drawn, ("unit", "CKA"), cells)
