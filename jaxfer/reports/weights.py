"""The line of WiSE-FT: the score on val at each strength, from the start to the fine-tuned network."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.reports import charts, numbers
from jaxfer.reports.charts import Band
from jaxfer.reports.page import Section
from jaxfer.reports.tables import plain, score, text

RULE = "wise_ft"


def section(results: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, maximize: bool) -> list[Section]:
    """Of {name: its runs} those that merged by WiSE-FT at several strengths; [] without one."""
    bands, rows, best = {}, [], {}
    for name, runs in results.items():
        paths = [path for result in runs if len(path := _path(result, metric)) > 1]
        shared = sorted(set.intersection(*map(set, paths))) if paths else []
        if len(shared) < 2:
            continue
        values = [[path[a] for path in paths] for a in shared]
        middle = [statistics.median(v) for v in values]
        bands[name] = Band(1 + len(bands), shared, middle, [min(v) for v in values], [max(v) for v in values])
        rows += [
            [text(name), plain(a), *map(score, (m, min(v), max(v)))]
            for a, m, v in zip(shared, middle, values, strict=True)
        ]
        best[name] = (max if maximize else min)(zip(middle, shared, strict=True))
    if not bands:
        return []
    title, about = "From the start to the fine-tuned network", "(1 - a) start + a fine-tuned: the median over the runs."
    x_name, y_name = "strength a", f"val {metric}"
    drawn = charts.lines("wise-ft", title, bands, x_name=x_name, y_name=y_name)
    legend = {name: band.series for name, band in bands.items()}
    headers = ("method", x_name, y_name, "lowest", "highest")
    part = charts.figure("wise-ft", title, about, drawn, headers, rows, legend=legend)
    first = next(iter(best))
    told = f"{first} is best at strength {numbers.plain(best[first][1])}: val {metric} {numbers.score(best[first][0])}"
    return [Section(name="Shift", title=told, parts=[part])]


def _path(result: Mapping[str, Any], metric: str) -> dict[float, float]:
    """{strength: score on val} of a merging by WiSE-FT."""
    fits = result.get("fits", {}).values()
    rows = [row for fit in fits if fit.get("rule") == RULE for row in fit.get("path", ())]
    return {row["strength"]: row[metric] for row in rows if numbers.known(row.get(metric))}
