"""The report of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etils import epath

from jaxfer.reports import (
    beside,
    comparison,
    curves,
    groups,
    lineage,
    methods,
    numbers,
    of_ranking,
    verdicts,
    weights,
    what_mattered,
)
from jaxfer.reports.comparison import SCRATCH, Compared
from jaxfer.reports.page import Page, Part, Section, paragraph
from jaxfer.reports.run_parts import of_one
from jaxfer.runs.survey import FINISHED, survey

KIND = "comparison"


def page(folder: epath.Path, *, evaluate: bool = True) -> Page:
    """Verdicts first, then the methods, their costs, their curves, the best run in detail, and where all comes from."""
    compared = comparison.read(folder)
    labels = compared.labels[0]
    best = compared.best(labels)
    sections = [verdicts.section(compared), methods.table_section(compared), methods.cost_section(compared)]
    sections += [_curves(compared)] if any(arm.folders for arm in compared.arms) else []
    if best.folders:
        sections += of_one(
            best.folders[0], f"{best.name}{verdicts.at(labels, compared)}, seed 0", evaluate=evaluate, root=folder
        )
    tuned = {arm.name: arm.results for arm in compared.at(labels)}
    sections = groups.among_errors(sections, groups.side_by_side(tuned, verdicts.at(labels, compared)))
    sections += beside.shift(compared)
    sections += weights.section(tuned, compared.metric, compared.maximize)
    results = {a.name + verdicts.at(a.labels, compared): a.results[0] for a in compared.arms if a.results}
    folders = {}
    for arm in compared.arms:
        where = verdicts.at(arm.labels, compared)
        folders |= {arm.name + where: arm.folders}
        folders |= {f"{arm.name}, default{where}": arm.defaults} if arm.defaults != arm.folders else {}
    if any(arm.folders for arm in compared.arms):
        places = {str(place) for runs in comparison.trial_runs(folder).values() for place in runs}  # sources are none
        trials = [run for run in survey(folder) if run.state == FINISHED and run.folder in places]
        sections += what_mattered.sections(folder, trials, compared.metric, compared.maximize)
    sections += of_ranking.beside(folder)
    sections.append(lineage.section(results, folders, _command(compared), folder))
    return Page(
        kind=KIND,
        title=verdicts.headline(compared, labels),
        lead=_lead(compared),
        tiles=_tiles(compared),
        sections=sections,
    )


def _lead(compared: Compared) -> str:
    best = compared.best(compared.labels[0])
    verdict, seeds = best.found["verdict"], len(compared.protocol.get("seeds", best.found["test"]))
    told = f"95 % interval {verdict['sentence'].partition('95 % interval ')[2]}" if verdict else ""
    told = told if told != "95 % interval " else ""
    opened = f" on {compared.opened}" if compared.opened else ""
    arms = f"{len(compared.at(compared.labels[0]))} arms, each tuned over as many settings on the same {seeds} seeds."
    test = f"The test split was opened once{opened}, after selection.json had named the settings that are best on val."
    return f"{told} {arms} {test}".strip()


def _tiles(compared: Compared) -> dict[str, tuple[str, str]]:
    best = compared.best(compared.labels[0])
    scratch = next((a for a in compared.at(best.labels) if a.name == SCRATCH), None)
    tiles = {f"test {compared.metric}": (numbers.score(best.mean), f"{best.name}, best on val")}
    if scratch is not None:
        tiles["from scratch"] = (numbers.score(scratch.mean), f"test {compared.metric}")
    total = best.cost("params_total")
    share = best.found["params_trainable"] / total if total else None
    tiles["trained parameters"] = (
        numbers.compact(best.found["params_trainable"]),
        f"{numbers.percent(share)} of the model",
    )
    tiles["training"] = (numbers.seconds(best.found["seconds"]), "median over seeds, without compiling")
    tiles["seeds"] = (str(len(best.found["test"])), "the same for every arm")
    return tiles


def _curves(compared: Compared) -> Section:
    parts: list[Part] = []
    for labels in compared.labels:
        for metric in dict.fromkeys((compared.metric, "loss")):
            bands = {arm.name: curves.band(arm.folders, "val", metric, arm.series) for arm in compared.at(labels)}
            bands = {name: band for name, band in bands.items() if band is not None and len(band.steps) > 1}
            if bands:
                about = (
                    "Median over seeds; the band reaches from the lowest to the highest seed. Validation split only."
                )
                name, title = (
                    f"curves-{metric}-{labels}",
                    f"{metric} on val{verdicts.at(labels, compared)}".capitalize(),
                )
                parts.append(curves.figure(name, title, about, bands, metric))
    best = compared.best(compared.labels[0])
    ended = f"{best.name} ends at val {compared.metric} {numbers.score(best.found['val'])}"
    if not parts:
        return Section(
            name="Curves",
            title=f"Only the end is known: {ended}",
            parts=[paragraph("With --config.eval_every=N there would be curves here.", muted=True)],
        )
    return Section(name="Curves", title=ended, parts=parts)


def _command(compared: Compared) -> Sequence[str]:
    """As comparison.json has it; an older one leaves what was set besides to each run's config.json."""
    if command := compared.command:
        options = {**_sampler(compared), "workdir": "NEW_FOLDER"}
        return lineage.spelled("compare", command["config"], command["overrides"], options)
    page = compared.folder / "verdict.md"
    title = page.read_text().partition("\n")[0] if page.exists() else ""
    spec = title.removeprefix("# ").partition(": does the transfer help?")[0] or "CONFIG"
    arms, fields = compared.protocol.get("arms", {}), {}
    fields["methods"] = ",".join(name for name in arms if name != SCRATCH)
    fields["trials"] = max(map(len, arms.values()), default=1)
    fields["seeds"] = len(compared.protocol.get("seeds", ()))
    fields["labels"] = ",".join(map(str, (count for count in compared.labels if count)))
    given = {f"compare.{name}": value for name, value in fields.items() if value}
    return lineage.spelled("compare", spec, given, {"workdir": "NEW_FOLDER"})


def _sampler(compared: Compared) -> dict[str, Any]:
    """The options that chose the settings, as protocol.json has them; {} of the grids."""
    sampler = compared.protocol.get("sampler", {})
    options = {"sampler": "name", "sampler-seed": "seed", "algorithm": "algorithm", "ask": "ask"}
    return {option: sampler[name] for option, name in options.items() if name in sampler}
