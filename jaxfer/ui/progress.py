"""What goes on: a run that is not finished, and the cells of a sweep or a comparison, as their files tell."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.reports import numbers
from jaxfer.reports.cells import cells
from jaxfer.reports.markup import Markup, tag
from jaxfer.reports.of_run import curve_sections
from jaxfer.reports.page import Page, Part, Section, definitions
from jaxfer.reports.tables import Cell, seconds, table, text
from jaxfer.runs import history, listing
from jaxfer.runs.folder import in_use
from jaxfer.runs.metrics import read_metrics
from jaxfer.runs.survey import DAMAGED, DIVERGED, FAILED, FINISHED, UNFINISHED, Run
from jaxfer.ui import places
from jaxfer.ui.listed import RUNNING, WAITING, state
from jaxfer.ui.overview import REFRESH, damaged

ORDER = (RUNNING, UNFINISHED, FAILED, DIVERGED, DAMAGED, FINISHED, WAITING)
TOLD = 4_000  # characters of an error


def of_run(run: Run) -> Page:
    """The page of a run that is not finished: how far it is, its curves, why it ended.

    Raises:
      InputError: one of its files can't be read.
    """
    if run.state == DAMAGED:
        raise InputError(run.problem)
    folder = Path(run.folder)
    place = epath.Path(folder)
    config, lines = files.read_json(place / "config.json"), read_metrics(place / "metrics.jsonl")
    by, how = history.monitor(config), state(run)
    metric = run.monitor or "loss"
    tiles = {"state": (how, ""), "step": (numbers.whole(run.step), f"of {run.steps:,}")}
    if f"val.{metric}" in run.scores:
        tiles[f"val {metric}"] = (numbers.score(run.scores[f"val.{metric}"]), "last evaluation")
    if "seconds" in run.cost:
        tiles["time"] = (numbers.seconds(run.cost["seconds"]), "until the last line of metrics.jsonl")
    fields = {name: listing.shown(name, dict(run.config)) for name in run.config}
    folded = tag("details", tag("summary", f"{len(fields)} fields"), definitions(fields))
    sections = [
        _bar("Progress", f"Step {run.step:,} of {run.steps:,}", run.step, run.steps),
        *_ending(folder, how),
        *curve_sections(place, lines, by, metric),
        Section(name="Config", title="Its config", parts=[Part(content=folded)]),
    ]
    title = f"{run.name}: {how}, step {run.step:,} of {run.steps:,}"
    lead = "" if how == RUNNING else "No process of this machine works on it. The same `jaxfer run` command resumes it."
    return Page(
        kind="run", title=title, lead=lead, tiles=tiles, sections=sections, refresh=REFRESH if how == RUNNING else 0
    )


def of_cells(root: Path, folder: Path, runs: Sequence[Run]) -> Page:
    """The page of a sweep or a comparison: how many cells are finished, and how far the others are.

    Args:
      root: the folder that is served.
      folder: of the sweep, in the root.
      runs: those of the root.

    Raises:
      InputError: its cells.json can't be read.
    """
    place, kind = epath.Path(folder), places.kind(folder)
    entries = list({entry["folder"]: entry for entry in reversed(cells(place))}.values())[::-1]  # one for each run
    going = in_use(place)
    inside, above = os.path.realpath(folder / "cells"), {os.path.dirname(run.folder) for run in runs}
    alike = {place for place in above if os.path.realpath(place) == inside}
    found = {os.path.basename(run.folder): run for run in runs if os.path.dirname(run.folder) in alike}
    begun = [(entry, found.get(entry["folder"].rpartition("/")[2])) for entry in entries]
    states = [WAITING if run is None else state(run) for _, run in begun]
    count = collections.Counter(states)
    tiles = {name: (f"{count[name]:,}", "") for name in ORDER if count[name]}
    best = _best([(entry, run) for entry, run in begun if run is not None])
    tiles |= {f"best val {run.monitor}": (numbers.score(score), entry["name"]) for entry, run, score in best}
    rows = [_row(entry, run, how, root) for (entry, run), how in zip(begun, states, strict=True)]
    rows = [row for name in ORDER for row, how in zip(rows, states, strict=True) if how == name]
    headers = ("cell", "state", "step", "val", "seconds")
    listed = Part(content=table(headers, rows, caption="Cells: a name leads to the run"))
    ended = count[FINISHED] + count[FAILED] + count[DIVERGED]
    sections = [
        _bar("Progress", f"{ended:,} of {len(entries):,} cells have ended", ended, len(entries)),
        Section(name="Cells", title=", ".join(f"{n:,} {name}" for name in ORDER if (n := count[name])), parts=[listed]),
    ]
    how = RUNNING if going else "all cells have ended" if ended == len(entries) else "not running"
    how = WAITING if not going and count[WAITING] == len(entries) else how
    command = "compare" if kind == places.COMPARISON else "sweep"
    resume = f"The same `jaxfer {command}` command {'starts' if how == WAITING else 'resumes'} it."
    return Page(
        kind=kind,
        title=f"{folder.name}: {how}, {count[FINISHED]:,} of {len(entries):,} cells finished",
        lead="" if going or ended == len(entries) else f"No process of this machine works on it. {resume}",
        tiles=tiles,
        sections=sections,
        refresh=REFRESH if going or count[RUNNING] else 0,
    )


def _best(runs: Sequence[tuple[Mapping[str, Any], Run]]) -> list[tuple[Mapping[str, Any], Run, float]]:
    """The finished cell that is best on val among those of a row, by the monitor of the first; [] without one."""
    done = [(entry, run) for entry, run in runs if run.state == FINISHED and entry["group"] and run.monitor]
    if not done:
        return []
    metric = done[0][1].monitor
    by = history.monitor(files.read_json(epath.Path(done[0][1].folder) / "config.json"))
    sign = 1 if by is None or by.maximize else -1
    scored = [(entry, run, run.scores.get(f"val.{metric}")) for entry, run in done if run.monitor == metric]
    known = [(entry, run, value) for entry, run, value in scored if numbers.known(value)]
    return [max(known, key=lambda each: sign * each[2])] if known else []


def _row(entry: Mapping[str, Any], run: Run | None, how: str, root: Path) -> list[Cell]:
    if run is None:
        return [text(entry["name"]), text(how), text(""), Cell(None, ""), seconds(None)]
    if run.state == DAMAGED:
        return [text(entry["name"]), text(how, damaged(run.problem, root)), text(""), Cell(None, ""), seconds(None)]
    where = "report" if run.state == FINISHED else "live"
    link = tag("a", entry["name"], href=f"/{where}/{places.quoted(root, run.folder)}")
    value = run.scores.get(f"val.{run.monitor}")
    step = text(run.step, _small_bar(run.step, run.steps))
    return [
        text(entry["name"], link),
        text(how),
        step,
        Cell(value, numbers.score(value)),
        seconds(run.cost.get("seconds")),
    ]


def _small_bar(done: int, total: int) -> Markup:
    label = f"{done:,} of {total:,}"
    return Markup(tag("progress", value=done, max=max(total, 1), aria_label=label) + tag("small", f" {label}"))


def _bar(name: str, title: str, done: int, total: int) -> Section:
    bar = tag("progress", value=done, max=max(total, 1), aria_label=title, class_="long")
    return Section(name=name, title=title, parts=[Part(content=bar)])


def _ending(folder: Path, how: str) -> list[Section]:
    """Why a cell failed or diverged."""
    parts = []
    if how == DIVERGED:
        try:
            parts.append(json.loads((folder / "diverged.json").read_text())["message"])
        except (OSError, ValueError, TypeError, KeyError):
            parts.append("diverged.json can't be read")
    if how == FAILED:
        try:
            parts.append((folder / "error.txt").read_text(errors="replace")[-TOLD:])
        except OSError:
            parts.append("error.txt can't be read")
    return [Section(name="Ending", title="How it ended", parts=[Part(content=tag("pre", said))]) for said in parts]
