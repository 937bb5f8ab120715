"""The settings of a sweep as a table, and the best of them against the config as it is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from jaxfer.evals.intervals import mean_interval, paired_interval
from jaxfer.reports import charts, cost, forgetting, numbers
from jaxfer.reports.charts import Point
from jaxfer.reports.page import Part, Section, paragraph
from jaxfer.reports.tables import Cell, score, seconds, table, text, whole

GROUPS = 30  # in a figure


class Group(NamedTuple):
    """The finished runs of one row: folders, results, scores on val."""

    name: str
    folders: tuple[epath.Path, ...]
    results: tuple[Mapping[str, Any], ...]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def seconds(self) -> float:
        """Of one run without compiling, the median."""
        costs = [result["cost"] for result in self.results]
        return statistics.median(cost["seconds"] - cost.get("compile_seconds", 0) for cost in costs)

    @property
    def trained(self) -> int:
        """Trained parameters."""
        return self.results[-1]["cost"]["params_trainable"]


def table_section(
    ordered: Sequence[Group], metric: str, entries: Sequence[Mapping[str, Any]], folder: epath.Path
) -> Section:
    """A figure and a table of all settings, the best first."""
    points, rows = [], []
    left = [forgetting.measured(group.results, group.folders, metric) for group in ordered]
    followed = any(kept is not None for kept, _ in left)
    for group, kept in zip(ordered, left, strict=True):
        mean, half = mean_interval(group.scores)
        ends = (mean - half, mean + half) if numbers.known(half) else (float("nan"),) * 2
        points.append(Point(group.name, mean, low=ends[0], high=ends[1], series=2 if group is ordered[0] else 1))
        shown = numbers.score(mean) + (f" ± {numbers.score(half)}" if numbers.known(half) else "")
        failed = sum(e["group"] == group.name and not (folder / e["folder"] / "result.json").exists() for e in entries)
        row = [text(group.name), Cell(mean, shown), whole(len(group.scores)), seconds(group.seconds)]
        own = forgetting.cells(*kept) if followed else []
        rows.append([*row, whole(group.trained), *own, whole(failed)])
    headers = ["setting", f"val {metric}", "runs", "seconds", "trained parameters"]
    headers += [*(forgetting.HEADERS if followed else ()), "unfinished"]
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
    parts += [Part(content=content, name="table settings")]
    parts += [paragraph(forgetting.ABOUT, muted=True)] if followed else []
    return Section(name="Settings", title=finding, parts=parts)


def cost_section(ordered: Sequence[Group], metric: str, maximize: bool) -> list[Section]:
    """The settings' scores against their seconds and, where these differ, against their trained parameters; [] of one
    setting."""
    if len(ordered) < 2:
        return []
    series = {group.name: 2 if group is ordered[0] else 1 for group in ordered}
    spent = cost.affordable([(g.name, g.scores, g.seconds, series[g.name]) for g in ordered])
    trained = cost.affordable([(g.name, g.scores, g.trained, series[g.name]) for g in ordered])
    parts = []
    said = {"who": "setting", "measure": f"val {metric}", "legend": False}
    if spent:
        name, noun = "cost-seconds", "seconds of training"
        parts.append(cost.figure(name, spent, maximize, noun=noun, show=numbers.seconds, **said))
    if len({entry.cost for entry in trained}) > 1:
        name, noun = "cost-parameters", "trained parameters"
        parts.append(cost.figure(name, trained, maximize, noun=noun, show=numbers.compact, **said))
    return [Section(name="Cost", title=cost.heading(spent, maximize, "What each setting costs"), parts=parts)]


def defaults(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of the groups that set nothing of their own, but the seed and what every group sets alike."""
    own: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry["group"]:
            set_by = {name: repr(value) for name, value in entry["overrides"].items() if name not in ("seed", "test")}
            own.setdefault(entry["group"], {}).update(set_by)
    shared = set.intersection(*(set(fields.items()) for fields in own.values())) if len(own) > 1 else set()
    return {name for name, fields in own.items() if set(fields.items()) <= shared}


def against_default(best: Group, default: Group | None, metric: str) -> Part:
    """The best setting against the config as it is, on the seeds and data that both have."""
    if default is None:
        why = "No setting of this sweep is the config as it is: there is no default to hold the best against."
        return paragraph(why, muted=True)
    if default is best:
        return paragraph(f"The best setting is the default: {best.name} sets nothing of its own.")
    ours, theirs = _by_pair(best), _by_pair(default)
    pairs = [pair for pair in ours if pair in theirs]
    headers = ("best", "default", "pairs", f"val {metric}, best", f"val {metric}, default", "best - default, 95 %")
    row = [text(best.name), text(default.name), whole(len(pairs)), score(best.mean), score(default.mean)]
    if len(pairs) > 1:
        gain = paired_interval([ours[pair] for pair in pairs], [theirs[pair] for pair in pairs])
        row.append(Cell(gain.mean, numbers.gain(gain.mean, gain.low, gain.high)))
    else:
        row.append(Cell(best.mean - default.mean, numbers.signed(best.mean - default.mean)))
    caption = "The best setting against the default, paired by seed and data; chosen on these scores, it looks too good"
    return Part(content=table(headers, [row], caption=caption, link="default"), name="table default")


def _by_pair(group: Group) -> dict[tuple[int, str | None], float]:
    """{(seed, sha256 of the data): score}; {} where several runs have the same, since no pair of theirs is known."""
    found = [((r["seed"], r["lineage"]["data_sha256"]), v) for r, v in zip(group.results, group.scores, strict=True)]
    return dict(found) if len(dict(found)) == len(found) else {}


def _overlaps(one: Group, other: Group) -> bool:
    ends = []
    for group in (one, other):
        mean, half = mean_interval(group.scores)
        half = half if numbers.known(half) else 0.0
        ends.append((mean - half, mean + half))
    return ends[0][0] <= ends[1][1] and ends[1][0] <= ends[0][1]
