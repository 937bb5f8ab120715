"""Learning curves of a report: the median of several runs on val, and the band from the lowest to the highest."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from etils import epath

from jaxfer.reports import charts
from jaxfer.reports.charts import Band
from jaxfer.reports.page import Part
from jaxfer.reports.tables import plain, score, text
from jaxfer.runs import history
from jaxfer.runs.metrics import read_metrics

POINTS = 200  # of a curve; a longer one is thinned evenly


def band(folders: Sequence[epath.Path], split: str, metric: str, series: int) -> Band | None:
    """The curve of runs that differ in their seeds, at the steps that all of them have; None without one."""
    curves = [dict(zip(*history.curve(read_metrics(f / "metrics.jsonl"), split, metric), strict=True)) for f in folders]
    curves = [curve for curve in curves if curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    steps = steps[:: -(-len(steps) // POINTS)] if steps else []
    values = [[v for c in curves if math.isfinite(v := c[step])] or [math.nan] for step in steps]
    if not steps:
        return None
    middle = [statistics.median(v) for v in values]
    return Band(series, steps, middle, [min(v) for v in values], [max(v) for v in values])


def figure(name: str, title: str, about: str, bands: Mapping[str, Band], metric: str) -> Part:
    """The figure of several curves, with its table."""
    drawn = charts.lines(name, title, bands, x_name="step", y_name=metric, wide_range=metric.endswith("loss"))
    rows = [
        [text(label), plain(step), *map(score, values)]
        for label, b in bands.items()
        for step, *values in zip(b.steps, b.middle, b.low, b.high, strict=True)
    ]
    headers = ("curve", "step", f"{metric}, median", "lowest", "highest")
    legend = {label: b.series for label, b in bands.items()} if len(bands) > 1 else None
    return charts.figure(name, title, about, drawn, headers, rows, legend=legend)
