"""The report of a sweep: its best setting, its settings against its scores, and what mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.reports import curves, groups, lineage, numbers, of_ranking, settings, weights, what_mattered
from jaxfer.reports.cells import cells
from jaxfer.reports.page import Page, Section, paragraph
from jaxfer.reports.run_parts import of_one
from jaxfer.reports.settings import Group
from jaxfer.runs import history
from jaxfer.runs.folder import read_result
from jaxfer.runs.survey import FINISHED, survey
from jaxfer.sweeps import COMMAND

KIND = "sweep"


class _Command(TypedDict):
    config: str
    overrides: Mapping[str, Any]
    options: Mapping[str, Any]


def page(folder: epath.Path, *, evaluate: bool = True) -> Page:
    """The best group first, then all of them, curves, the best run in detail, what mattered, and where all comes from.

    Raises:
      InputError: no cell of it is finished, or one of its files can't be read.
    """
    entries = cells(folder)
    done = [entry for entry in entries if entry["group"] and (folder / entry["folder"] / "result.json").exists()]
    if not done:
        raise InputError(f"no run of the sweep in {folder} is finished; run the same `jaxfer sweep` command again")
    by = history.monitor(files.read_json(folder / done[0]["folder"] / "config.json"))
    metric, maximize = (by.metric, by.maximize) if by else ("loss", False)
    found = _groups(folder, done, metric)
    if not found:
        raise InputError(f"no run of the sweep in {folder} has {metric} on val; nothing to rank its settings by")
    ordered = sorted(found, key=lambda group: -group.mean if maximize else group.mean)
    best = ordered[0]
    runs = [run for run in survey(folder) if run.state == FINISHED and run.folder in _places(found)]
    default = next((group for group in ordered if group.name in settings.defaults(entries)), None)
    sections = [settings.table_section(ordered, metric, entries, folder)]
    sections += [*settings.cost_section(ordered, metric, maximize), *_curves(ordered, metric)]
    detailed = of_one(best.folders[0], f"{best.name}, its first seed", evaluate=evaluate, root=folder)
    several = groups.side_by_side({group.name: group.results for group in _chosen(ordered)}, "")
    sections += groups.among_errors(detailed, several)
    sections += weights.section({group.name: group.results for group in ordered}, metric, maximize)
    beside = [settings.against_default(best, default, metric)]
    sections += what_mattered.sections(folder, runs, metric, maximize, beside)
    results, folders = {best.name: best.results[0]}, {group.name: group.folders for group in ordered}
    sections += of_ranking.beside(folder)
    sections.append(lineage.section(results, folders, _command(folder), folder))
    tried = sum(entry["group"] != "" for entry in entries)
    rest = f" {tried - len(done)} of {tried} runs are not finished." if tried > len(done) else ""
    return Page(
        kind=KIND,
        title=f"{best.name} is best: val {metric} {numbers.score(best.mean)}",
        lead=f"{len(found)} settings, {len(done)} runs, ranked on val: the best of many looks too good.{rest}",
        tiles=_tiles(ordered, metric, best, default),
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


def _tiles(ordered: Sequence[Group], metric: str, best: Group, default: Group | None) -> dict[str, tuple[str, str]]:
    cost = best.results[0]["cost"]
    as_is = {} if default is None else {f"default val {metric}": (numbers.score(default.mean), default.name)}
    return {
        f"best val {metric}": (numbers.score(best.mean), best.name),
        **as_is,
        f"worst val {metric}": (numbers.score(ordered[-1].mean), ordered[-1].name),
        "settings": (str(len(ordered)), f"{sum(len(g.folders) for g in ordered)} runs"),
        "trained parameters": (numbers.compact(cost["params_trainable"]), "of the best"),
    }


def _chosen(ordered: Sequence[Group]) -> list[Group]:
    """The seven best settings and the worst."""
    return [*ordered[:7], *ordered[7:][-1:]]


def _curves(ordered: Sequence[Group], metric: str) -> list[Section]:
    parts, first, ends = [], ordered[0], numbers.score(ordered[0].mean)
    chosen = _chosen(ordered)
    for name in dict.fromkeys((metric, "loss")):
        bands = {g.name: curves.band(g.folders, "val", name, i + 1) for i, g in enumerate(chosen)}
        bands = {key: band for key, band in bands.items() if band is not None and len(band.steps) > 1}
        if bands:
            which = "" if len(chosen) == len(ordered) else " The seven best settings and the worst."
            about = f"Median over the runs of a setting; the band reaches from the lowest to the highest.{which}"
            parts.append(curves.figure(f"curves-{name}", f"{name} on val".capitalize(), about, bands, name))
    if parts:
        return [Section(name="Curves", title=f"{first.name} ends at val {metric} {ends}", parts=parts)]
    note = paragraph("With --config.eval_every=N there would be curves here.", muted=True)
    return [Section(name="Curves", title=f"Only the end is known: {first.name} at val {metric} {ends}", parts=[note])]
