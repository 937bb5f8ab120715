"""The report of `jaxfer rank --out`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from etils import epath

from jaxfer import json_files
from jaxfer.errors import InputError
from jaxfer.evals.transferability import SCORES
from jaxfer.reports import charts, lineage, numbers
from jaxfer.reports.charts import Point
from jaxfer.reports.findings import Newer
from jaxfer.reports.markup import Markup, tag
from jaxfer.reports.page import Page, Part, Section, paragraph
from jaxfer.reports.style import SERIES
from jaxfer.reports.tables import Cell, plain, score, table, text, whole

FILE = "rank.json"
FIX = "write it again with `jaxfer rank CONFIG --out=FOLDER`"


class _Score(TypedDict):
    value: float | None
    why: str


class _WithFolders(TypedDict, total=False):
    folders: tuple[str, ...]


class _Reached(_WithFolders):
    metric: str
    value: float
    seeds: int
    settings: int


class _WithRuns(TypedDict, total=False):
    reached: _Reached | None
    notes: tuple[str, ...]


class _Candidate(_WithRuns):
    init: str
    model: str
    seconds: float
    scores: Mapping[str, _Score]
    heuristics: Mapping[str, float | None]
    layers: Mapping[str, _Score]
    sha256: str


class Ranking(Newer):
    config: str
    by: str
    examples: int
    classes: int
    candidates: tuple[_Candidate, ...]
    skill: Mapping[str, Mapping[str, Any]]


def page(found: Mapping[str, Any]) -> Page:
    """The candidates, their layers, what the scores are worth, seconds, and what was read.

    Raises:
      InputError: no candidates.
    """
    title, by, candidates = headline(found), found["by"], found["candidates"]
    names = [name for name in SCORES if name in candidates[0]["scores"]]
    rows = [
        [
            text(c["init"]),
            text(c["model"]),
            *(_score(c["scores"].get(name, {"value": None})["value"]) for name in (by, *(n for n in names if n != by))),
            *(plain(value) for value in c["heuristics"].values()),
        ]
        for c in candidates
    ]
    headers = ["candidate", "model", by, *(n for n in names if n != by), *candidates[0]["heuristics"]]
    values = {c["init"]: c["scores"].get(by, {}).get("value") for c in candidates}
    points = [Point(name, _known(value), series=1 + (i == 0)) for i, (name, value) in enumerate(values.items())]
    about = "More is better. Of features of the training split; neither val nor test was read."
    drawn = charts.intervals("scores", by, points[:30], x_name=by, zero=None, show=numbers.plain)
    figure = charts.figure("scores", f"{by} of each candidate", about, drawn, headers, rows)
    listed = table(headers, rows, caption="Candidates, the best first", link="candidates")
    content = Part(content=listed, name="table candidates")
    sections = [Section(name="Ranking", title=title, parts=[figure, content, *_remarks(candidates)])]
    sections += [*_layers(by, candidates), _skill(found["skill"], by, candidates), _seconds(candidates, names)]
    hashes = {c["init"]: tag("code", c["sha256"][:12]) for c in candidates}
    sections.append(lineage.of_file("rank", found, hashes))
    of = f"{found['examples']:,} training examples of {found['classes']} classes"
    lead = f"{len(candidates)} candidates for {found['config'] or 'a config'}: {of}."
    return Page(kind="ranking", title=title, lead=lead, tiles={}, sections=sections)


def headline(found: Mapping[str, Any]) -> str:
    """Which candidate is the best.

    Raises:
      InputError: no candidates.
    """
    if not found["candidates"]:
        raise InputError(f"a ranking without candidates; {FIX}")
    return f"{found['candidates'][0]['init']} ranks first by {found['by']}"


def _remarks(candidates: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Why scores are missing, and what was assumed of the candidates, as `jaxfer rank` prints them; [] of neither."""
    missing: dict[tuple[str, str], list[str]] = {}
    for c in candidates:
        for name, one in c["scores"].items():
            if one["value"] is None:
                missing.setdefault((c["init"], one["why"]), []).append(name)
    lines = [f"{init}: no {', '.join(names)}: {why}" for (init, why), names in missing.items()]
    lines += dict.fromkeys(f"Note: {note}" for c in candidates for note in c.get("notes", ()))
    return [Part(content=tag("ul", *(tag("li", line) for line in lines), class_="muted small"))] if lines else []


def _layers(by: str, candidates: Sequence[Mapping[str, Any]]) -> list[Section]:
    """The score of each unit of each candidate; [] where none was asked for."""
    rows, told = [], []
    for c in candidates:
        known = {unit: one["value"] for unit, one in c["layers"].items() if one["value"] is not None}
        best = max(known, key=known.__getitem__, default=None)
        told += [] if best is None else [f"{best} of {c['init']}"]
        for unit, one in c["layers"].items():
            rows.append([text(c["init"]), text(unit), _score(one["value"])])
            rows[-1].append(text("best" if unit == best else one["why"]))
    if not rows:
        return []
    caption = f"{by} of each unit, its mean over tokens or places"
    content = table(("candidate", "unit", by, "remark"), rows, caption=caption, link="layers")
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    title = f"Highest {by}: {', '.join(told[:3])}{more}" if told else f"No unit has a {by}"
    return [Section(name="Layers", title=title, parts=[Part(content=content, name="table layers")])]


def beside(folder: epath.Path) -> list[Section]:
    """What the scores of the folder's rank.json are worth; [] without one.

    Raises:
      InputError: another file.
    """
    if not (folder / FILE).exists():
        return []
    found = json_files.read(folder / FILE, Ranking, fix=FIX)
    return [_skill(found["skill"], found["by"], found["candidates"])]


def _skill(skill: Mapping[str, Mapping[str, Any]], by: str, candidates: Sequence[Mapping[str, Any]]) -> Section:
    if not skill:
        note = paragraph("`jaxfer rank --runs=FOLDER` compares the ranking with what runs reached.", muted=True)
        return Section(name="Skill", title="What the scores are worth here is not known", parts=[note])
    fields = ("tau", "low", "high", "chance", "candidates")
    rows = [[text(name), *(_score(one.get(field)) for field in fields)] for name, one in skill.items()]
    tau = skill.get(by, {}).get("tau")
    caption = "Weighted tau against runs, its 95 % interval, and how often a random order does as well"
    part = Part(content=table(("score", *fields), rows, caption=caption, link="skill"), name="table skill")
    title = f"{by} orders the runs with a weighted tau of {numbers.plain(tau)}"
    return Section(name="Skill", title=title, parts=[*_reached(by, candidates), part])


def _reached(by: str, candidates: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The score that ranks against what runs reached, and the numbers of both; [] without runs."""
    having = [c for c in candidates if c.get("reached")]
    if not having:
        return []
    metric = f"val {having[0]['reached']['metric']}"
    values = [c["scores"].get(by, {}).get("value") for c in having]
    points = [
        Point(c["init"], value, c["reached"]["value"], series=1 + i % SERIES)
        for i, (c, value) in enumerate(zip(having, values, strict=True))
        if numbers.known(value)
    ]
    rows = [
        [text(c["init"]), _score(value), score(c["reached"]["value"])]
        + [whole(c["reached"]["seeds"]), whole(c["reached"]["settings"])]
        + [text(", ".join(c["reached"].get("folders", ())) or "not known")]  # an older file names none
        for c, value in zip(having, values, strict=True)
    ]
    title = f"{by} against what runs reached"
    about = f"{metric.capitalize()} of the best setting of the runs from each candidate, its mean over the seeds."
    options = {"x_name": by, "y_name": metric, "x_text": numbers.plain, "log": False}
    drawn = charts.scatter("reached", title, points, **options) if points else Markup("")
    headers = ("candidate", by, metric, "seeds", "settings tried", "run folders")
    return [charts.figure("reached", title, about, drawn, headers, rows, legend={p.name: p.series for p in points})]


def _seconds(candidates: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Section:
    """Of each candidate the seconds to load it and to compute or read its features, and those of each score alone."""
    rows = []
    for c in candidates:
        spent = [c["scores"].get(name, {}).get("seconds") for name in names]
        features = "computed" if c.get("computed") else "stored"
        rows.append([text(c["init"]), Cell(c["seconds"], numbers.seconds(c["seconds"])), text(features)])
        rows[-1] += [Cell(value, numbers.seconds(value)) for value in spent]
    total = sum(c["seconds"] + sum(s.get("seconds") or 0 for s in c["scores"].values()) for c in candidates)
    headers = ("candidate", "loading and features", "features were", *names)
    part = Part(content=table(headers, rows, caption="Seconds", link="seconds"), name="table seconds")
    title = f"Ranking {len(candidates)} candidates took {numbers.seconds(total)}"
    return Section(name="Seconds", title=title, parts=[part])


def _score(value: Any) -> Cell:
    return whole(value) if isinstance(value, int) else Cell(value, numbers.plain(value))


def _known(value: Any) -> float:
    return value if numbers.known(value) else float("nan")
