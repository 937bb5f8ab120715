"""The report of a sweep: its best setting, its settings against its scores, and what mattered."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.evals.intervals import mean_interval
from jaxfer.reports import charts, curves, lineage, numbers, what_mattered
from jaxfer.reports.cells import cells
from jaxfer.reports.charts import Point
from jaxfer.reports.page import Page, Part, Section, paragraph
from jaxfer.reports.run_parts import of_one
from jaxfer.reports.tables import Cell, seconds, table, text, whole
from jaxfer.runs import history
from jaxfer.runs.folder import read_result
from jaxfer.runs.survey import FINISHED, survey
from jaxfer.sweeps import COMMAND

KIND = "sweep"
GROUPS = 30  # in a figure


class _Command(TypedDict):
    config: str
    overrides: Mapping[str, Any]
    options: Mapping[str, Any]


class Group(NamedTuple):
    """The finished runs of one row: folders, results, scores on val."""

    name: str
    folders: tuple[epath.Path, ...]
    results: tuple[Mapping[str, Any], ...]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)


def page(folder: epath.Path, *, evaluate: bool = True) -> Page:
    """The best group first, then all of them, parallel coordinates, importance, curves, and the best run in detail.

    Raises:
      InputError: no cell of it is finished, or one of its files can't be read.
    """
    entries = cells(folder)
    done = [entry for entry in entries if entry["group"] and (folder / entry["folder"] / "result.json").exists()]
    if not done:
        raise InputError(f"no run of the sweep in {folder} is finished; run the same `jaxfer sweep` command again")
    by = history.monitor(files.read_json(folder / done[0]["folder"] / "config.json"))
    metric, maximize = (by.metric, by.maximize) if by else ("loss", False)
    groups = _groups(folder, done, metric)
    if not groups:
        raise InputError(f"no run of the sweep in {folder} has {metric} on val; nothing to rank its settings by")
    ordered = sorted(groups, key=lambda group: -group.mean if maximize else group.mean)
    best = ordered[0]
    runs = [run for run in survey(folder) if run.state == FINISHED and run.folder in _places(groups)]
    sections = [_table(ordered, metric, entries, folder), *what_mattered.sections(folder, runs, metric, maximize)]
    sections += _curves(ordered, metric)
    sections += of_one(best.folders[0], f"{best.name}, its first seed", evaluate=evaluate)
    results, folders = {best.name: best.results[0]}, {group.name: group.folders for group in ordered}
    sections.append(lineage.section(results, folders, _command(folder), folder))
    tried = sum(entry["group"] != "" for entry in entries)
    rest = f" {tried - len(done)} of {tried} runs are not finished." if tried > len(done) else ""
    return Page(
        kind=KIND,
        title=f"{best.name} is best: val {metric} {numbers.score(best.mean)}",
        lead=f"{len(groups)} settings, {len(done)} runs, ranked on val: the best of many looks too good.{rest}",
        tiles=_tiles(ordered, metric, best),
        sections=sections,
    )


def _command(folder: epath.Path) -> list[str]:
    """As command.json has it; [] of an older sweep."""
    if not (folder / COMMAND).exists():
        return []
    command = files.read_json(folder / COMMAND, _Command)
    options = {**command["options"], "workdir": "NEW_FOLDER"}
    return lineage.spelled("sweep", command["config"], command["overrides"], options)


def _places(groups: Sequence[Group]) -> set[str]:
    return {str(folder) for group in groups for folder in group.folders}


def _groups(folder: epath.Path, done: Sequence[Mapping[str, Any]], metric: str) -> list[Group]:
    found: dict[str, list[tuple[epath.Path, Mapping[str, Any], float]]] = {}
    for entry in done:
        place = folder / entry["folder"]
        result = read_result(place)
        value = result["metrics"].get("val", {}).get(metric)
        if numbers.known(value):
            found.setdefault(entry["group"], []).append((place, result, value))
    return [Group(name, *map(tuple, zip(*runs, strict=True))) for name, runs in found.items()]


def _tiles(ordered: Sequence[Group], metric: str, best: Group) -> dict[str, tuple[str, str]]:
    cost = best.results[0]["cost"]
    return {
        f"best val {metric}": (numbers.score(best.mean), best.name),
        f"worst val {metric}": (numbers.score(ordered[-1].mean), ordered[-1].name),
        "settings": (str(len(ordered)), f"{sum(len(g.folders) for g in ordered)} runs"),
        "trained parameters": (numbers.compact(cost["params_trainable"]), "of the best"),
    }


def _table(ordered: Sequence[Group], metric: str, entries: Sequence[Mapping[str, Any]], folder: epath.Path) -> Section:
    points, rows = [], []
    for group in ordered:
        mean, half = mean_interval(group.scores)
        ends = (mean - half, mean + half) if numbers.known(half) else (float("nan"),) * 2
        points.append(Point(group.name, mean, low=ends[0], high=ends[1], series=2 if group is ordered[0] else 1))
        costs = [result["cost"] for result in group.results]
        spent = statistics.median(cost["seconds"] - cost.get("compile_seconds", 0) for cost in costs)
        shown = numbers.score(mean) + (f" ± {numbers.score(half)}" if numbers.known(half) else "")
        failed = sum(e["group"] == group.name and not (folder / e["folder"] / "result.json").exists() for e in entries)
        row = [text(group.name), Cell(mean, shown), whole(len(group.scores)), seconds(spent)]
        rows.append([*row, whole(costs[-1]["params_trainable"]), whole(failed)])
    headers = ("setting", f"val {metric}", "runs", "seconds", "trained parameters", "unfinished")
    title = f"val {metric} of each setting"
    about = "Means over its runs with their 95 % intervals, the best first."
    drawn = charts.intervals("settings-scores", title, points[:GROUPS], x_name=title, zero=None, show=numbers.score)
    first = ordered[0]
    close = sum(1 for group in ordered[1:] if _overlaps(first, group))
    finding = (
        f"{close} of {len(ordered) - 1} other settings overlap with {first.name}" if len(ordered) > 1 else first.name
    )
    content = table(headers, rows, caption="Settings, the best first", link="settings")
    parts = [charts.figure("settings-scores", title.capitalize(), about, drawn, headers, rows)]
    return Section(name="Settings", title=finding, parts=[*parts, Part(content=content, name="table settings")])


def _overlaps(one: Group, other: Group) -> bool:
    ends = []
    for group in (one, other):
        mean, half = mean_interval(group.scores)
        half = half if numbers.known(half) else 0.0
        ends.append((mean - half, mean + half))
    return ends[0][0] <= ends[1][1] and ends[1][0] <= ends[0][1]


def _curves(ordered: Sequence[Group], metric: str) -> list[Section]:
    parts = []
    chosen = [*ordered[:7], *([ordered[-1]] if len(ordered) > 7 else [])]
    for name in dict.fromkeys((metric, "loss")):
        bands = {g.name: curves.band(g.folders, "val", name, i + 1) for i, g in enumerate(chosen)}
        bands = {key: band for key, band in bands.items() if band is not None and len(band.steps) > 1}
        if bands:
            which = "" if len(chosen) == len(ordered) else " The seven best settings and the worst."
            about = f"Median over the runs of a setting; the band reaches from the lowest to the highest.{which}"
            parts.append(curves.figure(f"curves-{name}", f"{name} on val".capitalize(), about, bands, name))
    if parts:
        return [Section(name="Curves", title=f"How {metric} on val rose", parts=parts)]
    note = paragraph("With --config.eval_every=N there would be curves here.", muted=True)
    return [Section(name="Curves", title="Val was evaluated once, at the end", parts=[note])]
