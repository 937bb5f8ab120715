"""curves.png of one run: training and validation loss, the monitor, and where its stages begin."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from jaxfer import files
from jaxfer.figures.look import INK, Style, drawn, new_figure, save
from jaxfer.figures.placing import end_labels
from jaxfer.runs import history
from jaxfer.runs.metrics import read_metrics

LOOKS = {"train": Style("#56B4E9", "v"), "val": Style("#D55E00", "o")}
Curves = dict[str, tuple[list[int], list[float]]]  # {split: (steps, values)}
WIDE = 30.0  # a loss that spans more than this factor is drawn on a log axis


@drawn
def draw(folder: epath.Path) -> None:
    """Draws a run's metrics.jsonl into curves.png beside it; nothing where nothing was logged."""
    lines = read_metrics(folder / "metrics.jsonl")
    if lines:
        by = history.monitor(files.read_json(folder / "config.json"))
        save(figure_of(lines, by), folder / "curves", suffixes=("png",))


@drawn
def figure_of(lines: Sequence[history.Line], by: history.Monitor | None) -> Figure:
    """A panel for the loss and, unless that is the monitor, one for the monitor; a larger mark is the best evaluation.

    Args:
      lines: of metrics.jsonl.
      by: the monitor; None if unknown.
    """
    names = dict.fromkeys(("loss", by.metric if by else "loss"))
    panels = [name for name in names if _curves(lines, name)] or ["loss"]
    figure = new_figure(7.5, 1.2 + 2.7 * len(panels))
    everything = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    best = history.best(lines, by) if by else None
    for axes, name in zip(everything, panels, strict=True):
        _panel(axes, name, _curves(lines, name), best)
    _stages(everything, lines)
    everything[-1].set_xlabel("step")
    everything[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    everything[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for axes, name in zip(everything, panels, strict=True):
        ends = [(x[-1], y[-1], split, LOOKS[split]) for split, (x, y) in _curves(lines, name).items()]
        if ends:
            end_labels(axes, ends)
    return figure


def _panel(axes: Axes, name: str, curves: Curves, best: history.Line | None) -> None:
    for split, (steps, values) in curves.items():
        look = LOOKS[split]
        # Few evaluations are points, many are a line with a mark here and there.
        axes.plot(steps, values, look.marker + "-", color=look.colour, markersize=5, markevery=-(-len(steps) // 15))
    if best is not None and name in best:
        look = LOOKS["val"]
        axes.plot(best["step"], best[name], look.marker, color=look.colour, markersize=10, markeredgecolor="white")
    drawn = [value for _, values in curves.values() for value in values]
    if name == "loss" and drawn and 0 < WIDE * min(drawn) < max(drawn):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(name)
    axes.margins(x=0.02)


def _stages(everything: Sequence[Axes], lines: Sequence[history.Line]) -> None:
    """A line where a stage begins, and its name above; nothing for a single stage."""
    names = history.stages(lines)
    begins = [min(line["step"] for line in lines), *(end for _, end in names[:-1])]
    for begin, (name, _) in zip(begins, names, strict=True) if len(names) > 1 else ():
        at = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "bottom"}
        everything[0].annotate(name, (begin, 1), (2, 3), fontsize=11, annotation_clip=False, **at)
        if begin != begins[0]:
            for axes in everything:
                axes.axvline(begin, color=INK, linewidth=1, linestyle=":")


def _curves(lines: Sequence[history.Line], metric: str) -> Curves:
    """{split: (steps, finite values)} of a metric."""
    found = {split: history.curve(lines, split, metric) for split in LOOKS}
    finite = {
        split: [(step, value) for step, value in zip(*curve, strict=True) if math.isfinite(value)]
        for split, curve in found.items()
    }
    return {split: tuple(map(list, zip(*points, strict=True))) for split, points in finite.items() if points}
