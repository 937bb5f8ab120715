"""The report of a run."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.reports import curves, groups, lineage, numbers, weights
from jaxfer.reports.markup import tag
from jaxfer.reports.page import Page, Part, Section, definitions
from jaxfer.reports.run_parts import of_one
from jaxfer.reports.tables import score, table, text
from jaxfer.runs import history, seal
from jaxfer.runs.folder import read_result
from jaxfer.runs.metrics import read_metrics

KIND = "run"


def page(folder: epath.Path, *, evaluate: bool = True) -> Page:
    """Scores first, then curves, data, what was trained, errors, calibration and lineage.

    Raises:
      InputError: the run is not finished, or one of its files can't be read.
    """
    if not (folder / "result.json").exists():
        raise InputError(f"the run at {folder} is not finished; run the same `jaxfer run` command again to finish it")
    result, config = read_result(folder), files.read_json(folder / "config.json")
    by = history.monitor(config)
    metric = by.metric if by else next(iter(result["metrics"].get("val", {})), "loss")
    lines = read_metrics(folder / "metrics.jsonl")
    sections = [_scores(result, metric), *curve_sections(folder, lines, by, metric)]
    sections += groups.among_errors(of_one(folder, "", evaluate=evaluate), groups.of_one(result))
    sections += weights.section({"this run": (result,)}, metric, by is None or by.maximize)
    sections.append(_origin(folder, result))
    return Page(
        kind=KIND,
        title=_title(result, config, metric),
        lead=_lead(folder, result, config),
        tiles=_tiles(result, metric),
        sections=sections,
    )


def _title(result: Mapping[str, Any], config: Mapping[str, Any], metric: str) -> str:
    methods = [config["stage"][name]["method"] for name in config["stages"]] or [config["method"]]
    split = "test" if "test" in result["metrics"] else "val"
    found = result["metrics"].get(split, {}).get(metric)
    source = config["init"].rsplit("/", 1)[-1]  # the whole path is in the lineage
    return f"{' then '.join(methods)} from {source}: {split} {metric} {numbers.score(found)}"


def _lead(folder: epath.Path, result: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    stopped = "".join(
        f" Stage {name} stopped early, at step {step}." for name, step in result.get("stopped", {}).items()
    )
    test = _read(folder) if "test" in result["metrics"] else "The test split is sealed."
    which = {"best": "the best on val", "last": "the last"}.get(config.get("select", "last"), "the selected")
    alone = f"One run, seed {result['seed']}: one number says nothing about its spread."
    return f"{alone} Its parameters are {which}. {test}{stopped}"


def _read(folder: epath.Path) -> str:
    """When the test split was read, if a comparison's opened.json says so: a run's own files hold no date."""
    whole = folder if files.remote(folder) else folder.resolve()
    if opened := seal.opened(whole.parent.parent):
        return f"Its comparison opened the test split on {opened}, once its settings were selected on val."
    return "The test split was read once the run was done."


def _tiles(result: Mapping[str, Any], metric: str) -> dict[str, tuple[str, str]]:
    cost = result["cost"]
    tiles = {}
    for split in ("test", "val"):
        if metric in result["metrics"].get(split, {}):
            tiles[f"{split} {metric}"] = (
                numbers.score(result["metrics"][split][metric]),
                f"{result['examples'].get(split, 0):,} examples",
            )
    share = cost["params_trainable"] / cost["params_total"] if cost["params_total"] else None
    tiles["trained parameters"] = (
        numbers.compact(cost["params_trainable"]),
        f"{numbers.percent(share)} of {numbers.compact(cost['params_total'])}",
    )
    compiling = cost.get("compile_seconds")
    tiles["time"] = (
        numbers.seconds(cost["seconds"]),
        f"{numbers.seconds(compiling)} of it compiling" if compiling else "all attempts",
    )
    if cost.get("peak_bytes"):
        tiles["peak memory"] = (numbers.size(cost["peak_bytes"]), "of the compiled step, on one device")
    tiles["steps"] = (numbers.whole(result["steps"]), f"{numbers.compact(cost.get('examples_per_second'))} examples/s")
    return tiles


def _scores(result: Mapping[str, Any], metric: str) -> Section:
    splits = [split for split in ("test", "val") if split in result["metrics"]]
    names = dict.fromkeys((metric, *(name for split in splits for name in result["metrics"][split])))
    rows = [[text(name), *(score(result["metrics"][split].get(name)) for split in splits)] for name in names]
    parts = [Part(content=table(("metric", *splits), rows, link="scores", label="Scores"), name="table scores")]
    cost = {name: _shown(name, value) for name, value in result["cost"].items() if numbers.known(value)}
    folded = tag("details", tag("summary", "What it cost, in full"), definitions(cost))
    parts.append(Part(content=folded, name="table of costs"))
    main = ", ".join(f"{split} {numbers.score(result['metrics'][split].get(metric))}" for split in splits)
    return Section(name="Scores", title=f"{metric}: {main}", parts=parts)


def _shown(name: str, value: float) -> str:
    if name.endswith("seconds"):
        return numbers.seconds(value)
    return numbers.size(value) if name.endswith("bytes") else numbers.whole(value)


def curve_sections(folder: epath.Path, lines: list, by: history.Monitor | None, metric: str) -> list[Section]:
    """Loss and monitor by step, on train and val; nothing of fewer than two points."""
    parts = []
    for name in dict.fromkeys(("loss", metric)):
        bands = {split: curves.band((folder,), split, name, series) for split, series in (("train", 1), ("val", 2))}
        bands = {split: band for split, band in bands.items() if band is not None and len(band.steps) > 1}
        if bands:
            about = "Training values are means since the line before; those of val are of the whole split."
            parts.append(curves.figure(f"curve-{name}", f"{name} by step".capitalize(), about, bands, name))
    if not parts:
        return []
    best = history.best(lines, by) if by else None
    at = f": best at step {best['step']:,}, {numbers.score(best[metric])}" if best else ""
    return [Section(name="Curves", title=f"{metric} on val{at}", parts=parts)]


def _origin(folder: epath.Path, result: Mapping[str, Any]) -> Section:
    """Its lineage, with the config as a file, which the command needs where the folder is gone."""
    again = ["jaxfer", "run", str(folder / "config.json"), f"--workdir={folder}-again"]
    section = lineage.section({"This run": result}, {"This run": (folder,)}, again, folder)
    data = base64.b64encode((folder / "config.json").read_bytes()).decode()
    link = tag("a", "config.json", href=f"data:application/json;base64,{data}", download="config.json")
    config = Part(content=tag("p", "Its config: ", link), name="config")
    return dataclasses.replace(section, parts=[*section.parts[:2], config, *section.parts[2:]])
