"""Plots of results: a colour and a marker per method, names beside the data, identical bytes when redrawn.

Each function writes PATH.png and PATH.svg atomically; PATH may end in one of these suffixes. Text in the SVG stays
text. A non-finite score means a diverged run: it is not drawn, but counted beside the method's name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypedDict

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from jaxfer.errors import InputError, nearest
from jaxfer.evals.intervals import mean_interval
from jaxfer.figures.look import (
    DASHES,
    INK,
    Style,
    drawn,
    new_figure,
    save,
    styles,
    text_width,
)
from jaxfer.figures.placing import beside, end_labels


class Point(TypedDict):
    """A method's scores (one per seed) and cost: number of trainable parameters, seconds per run."""

    scores: Sequence[float]
    params_trainable: int
    seconds: float


@drawn
def methods(
    scores: Mapping[str, Sequence[float]],
    path: epath.Path,
    label: str,
    reference: str | None = None,
    baselines: Mapping[str, float] | None = None,
    best: Literal["max", "min"] = "max",
) -> None:
    """Draws a score by method, best first: the mean with its value, the 95 % t interval and every seed.

    Args:
      scores: {method: one score per seed}.
      path: where to write the pictures.
      label: name of the score, such as `test accuracy`.
      reference: the method to compare with; a line at its mean crosses all rows.
      baselines: {name: score} of methods without a network, one row each; an arrow marks a score beyond the axis.
      best: whether a score should be large (`max`) or small (`min`).
    """
    _check(scores)
    if reference is not None and reference not in scores:
        raise InputError(
            f"expected the reference to be one of the plotted methods, found {reference!r}{nearest(reference, scores)}"
        )
    if best not in ("max", "min"):
        raise InputError(f"expected best='max' or best='min', found {best!r}")
    baselines, looks = baselines or {}, styles(scores)
    means = {name: _interval(values) for name, values in scores.items()}
    sign = -1 if best == "max" else 1
    order = sorted(scores, key=lambda name: (math.isnan(means[name][0]), sign * means[name][0]))
    names = [_name(name, scores[name]) + (" (reference)" if name == reference else "") for name in order]
    low, high = _window(scores.values(), baselines.values())
    figure = new_figure(
        max(7, 3.6 + 1.5 + text_width([*names, *baselines])), 1 + 0.5 * len(order) + 0.34 * len(baselines)
    )
    axes = figure.add_subplot()
    rows = [float(i) for i in range(len(order))] + [len(order) - 0.1 + 0.7 * i for i in range(len(baselines))]
    digits = _digits([*_finite(itertools.chain(*scores.values())), *baselines.values()])
    across, beside = axes.get_yaxis_transform(), dict(va="center_baseline", fontsize=13)
    if reference is not None:
        axes.axvline(means[reference][0], color=looks[reference].colour, linewidth=1.2, zorder=1)
    for row, name in zip(rows, order, strict=False):
        (mean, half), look = means[name], looks[name]
        seeds = _finite(scores[name])
        axes.scatter(
            seeds,
            [row + 0.25 + 0.09 * (k % 3) for k in range(len(seeds))],
            s=18,
            color=look.colour,
            linewidth=0,
            zorder=2,
        )
        if seeds:
            _bar(axes, row, mean, half, (low, high), look.colour, upright=False)
            axes.plot(mean, row, look.marker, color=look.colour, markersize=10, markeredgecolor="white", zorder=4)
        error = "" if math.isnan(half) else f" ± {half:.{digits}f}"
        axes.text(1.035, row, f"{mean:.{digits}f}{error}" if seeds else "–", transform=across, **beside)
    for row, value, dash in zip(rows[len(order) :], baselines.values(), itertools.cycle(DASHES), strict=False):
        if low <= value <= high:
            axes.plot(value, row, "|", color=INK, markersize=15, markeredgewidth=2.5)
            axes.plot([value] * 2, [row, -0.5], color=INK, linestyle=dash, linewidth=1.2, zorder=1)
        else:
            edge, arrow = (0.012, "<") if value < low else (0.988, ">")
            axes.plot(edge, row, arrow, color=INK, markersize=7, clip_on=False, transform=across)
        axes.text(1.035, row, f"{value:.{digits}f}", transform=across, **beside)
    axes.set_yticks(rows, [*names, *baselines], fontsize=13)
    axes.set(xlim=(low, high), ylim=(rows[-1] + 0.5, -0.5))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, pad=10)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(
        f"{label} ({'higher' if best == 'max' else 'lower'} is better)\nmean, its 95 % interval, dots: seeds"
    )
    save(figure, path)


@drawn
def learning_curves(
    curves: Mapping[str, Sequence[tuple[Sequence[int], Sequence[float]]]], path: epath.Path, label: str
) -> None:
    """Draws a score by step: the mean over a method's seeds as a bold line, each seed as a faint one.

    Args:
      curves: {method: (steps, values) of each seed}. Seeds may differ in their steps: the mean interpolates linearly
        and ends with the shortest seed. A diverged seed is drawn up to its last finite value and left out of the mean.
      path: where to write the pictures.
      label: name of the score.
    """
    _check(curves)
    looks = styles(curves)
    finals = {name: [_last(values) for _, values in seeds] for name, seeds in curves.items()}
    names = {name: _name(name, finals[name]) for name in curves}
    figure = new_figure(max(7, 5.1 + text_width(names.values())), max(4.4, 0.8 + 0.27 * len(curves)))
    axes, ends = figure.add_subplot(), []
    for name, seeds in curves.items():
        whole, look = [], looks[name]
        for steps, values in seeds:
            if len(steps) != len(values):
                raise InputError(f"{name}: expected one value per step, found {len(steps)} steps, {len(values)} values")
            count = next((i for i, v in enumerate(values) if not math.isfinite(v)), len(values))
            if len(seeds) > 1 or count < len(values):
                axes.plot(steps[:count], values[:count], color=look.colour, linewidth=1, alpha=0.35)
            if 0 < count < len(values):
                axes.plot(steps[count - 1], values[count - 1], "x", color=look.colour, markersize=8)
            if 0 < count == len(values):
                whole.append((steps, values))
        grid, mean = _mean_curve(whole)
        if grid.size:
            axes.plot(grid, mean, color=look.colour, linewidth=2.4, zorder=3)
        ends.append((grid[-1], mean[-1], names[name], look) if grid.size else (None, 0, names[name], look))
    axes.set(xlabel="step", ylabel=label)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    end_labels(axes, ends)
    save(figure, path)


@drawn
def labels(
    scores: Mapping[str, Mapping[int, Sequence[float]]],
    path: epath.Path,
    label: str,
    baselines: Mapping[str, float | Mapping[int, float]] | None = None,
    counted: str = "a class",
) -> None:
    """Draws a score by labels: each method's mean and 95 % t interval, side by side so that none is hidden.

    Args:
      scores: {method: {labels: one score per seed}}.
      path: where to write the pictures.
      label: name of the score.
      baselines: {name: score, or {labels: score}} of methods without a network, drawn dashed.
      counted: what labels count, `a class` or `in all`.
    """
    _check(scores)
    baselines, looks = baselines or {}, styles(scores)
    counts = sorted({count for by_count in scores.values() for count in by_count})
    if not counts or counts[0] < 1:
        raise InputError(f"expected scores at 1 or more labels {counted}, found the counts {counts}")
    # Side by side around the count, in decades: apart enough to see, never half way to the next count.
    decades = math.log10(counts[-1] / counts[0])
    nearby = min((math.log10(b / a) for a, b in itertools.pairwise(counts)), default=0.3)
    pitch = min(0.026 * (decades or 1), 0.5 * nearby / max(1, len(scores) - 1))
    edge = 10 ** (0.05 * (decades or 6) + pitch * (len(scores) - 1) / 2)
    window = (counts[0] / edge, counts[-1] * edge)
    dashed = {
        name: dict(value) if isinstance(value, Mapping) else dict.fromkeys(window, value)
        for name, value in baselines.items()
    }
    names = {name: _name(name, itertools.chain(*by_count.values())) for name, by_count in scores.items()}
    groups = [seeds for by_count in scores.values() for seeds in by_count.values()]
    low, high = _window(groups, [value for by_count in dashed.values() for value in by_count.values()])
    digits = _digits(_finite(itertools.chain(*groups)))
    lines = len(scores) + len(dashed)
    figure = new_figure(max(7, 5.1 + text_width([*names.values(), *dashed])), max(4.6, 1 + 0.27 * lines))
    axes, ends = figure.add_subplot(), []
    for i, (name, by_count) in enumerate(scores.items()):
        look, shift = looks[name], 10 ** (pitch * (i - (len(scores) - 1) / 2))
        points = [(count * shift, *_interval(by_count[count])) for count in sorted(by_count)]
        points = [point for point in points if not math.isnan(point[1])]
        for x, mean, half in points:
            _bar(axes, x, mean, half, (low, high), look.colour)
        x, y = [point[0] for point in points], [point[1] for point in points]
        axes.plot(x, y, color=look.colour, linewidth=1.2, alpha=0.6)
        axes.plot(
            x, y, look.marker, color=look.colour, markersize=7.5, markeredgecolor="white", markeredgewidth=0.8, zorder=4
        )
        ends.append((x[-1], y[-1], names[name], look) if points else (None, 0, names[name], look))
    for (name, by_count), dash in zip(dashed.items(), itertools.cycle(DASHES), strict=False):
        x = sorted(by_count)
        look = {"color": INK, "linestyle": dash, "linewidth": 1.4, "marker": "_" if len(x) == 1 else ""}
        axes.plot(x, [by_count[count] for count in x], zorder=1.5, **look)
        last = by_count[x[-1]]
        if low <= last <= high:
            ends.append((x[-1], last, name, Style(INK, "_")))
        else:
            side = (0, "below") if last < low else (1, "above")
            ends.append((None, side[0], f"{name} ({last:.{digits}f}, {side[1]})", Style(INK, "_")))
    axes.set(
        xscale="log",
        xlim=window,
        ylim=(low, high),
        xlabel=f"labels {counted}",
        ylabel=f"{label}\nmean and its 95 % interval",
    )
    axes.set_xticks(counts, _stagger(counts, 4.2))
    axes.set_xticks([], minor=True)
    end_labels(axes, ends)
    save(figure, path)


@drawn
def cost(points: Mapping[str, Point], path: epath.Path, label: str) -> None:
    """Draws a score against its cost: trainable parameters, and seconds (a log axis if they span more than 30 x).

    Args:
      points: {method: its scores and cost}.
      path: where to write the pictures.
      label: name of the score.
    """
    _check(points)
    looks = styles(points)
    names = {name: _name(name, point["scores"]) for name, point in points.items()}
    means = {name: _interval(point["scores"]) for name, point in points.items()}
    drawn = [name for name in points if not math.isnan(means[name][0])]
    window = _window([point["scores"] for point in points.values()], [])
    panel = max(4.4, 2.4 + 1.4 * text_width(names.values()))
    figure = new_figure(0.8 + 2 * panel, max(4.6, 1.6 + 0.45 * len(points)))
    left, right = figure.subplots(1, 2, sharey=True)
    places: list[dict[str, float]] = []
    for axes, key, title in (
        (left, "params_trainable", "trainable parameters"),
        (right, "seconds", "training seconds"),
    ):
        at = {name: float(points[name][key]) for name in drawn}
        if not all(0 <= value < math.inf for value in at.values()):
            raise InputError(f"expected {title} of 0 or more, found {at}; leave the method out")
        zero = _cost_axis(axes, at.values(), log=key == "params_trainable")
        places.append(at := {name: value or zero for name, value in at.items()})
        for name in drawn:
            _bar(axes, at[name], *means[name], window, looks[name].colour)
            axes.plot(at[name], means[name][0], looks[name].marker, color=looks[name].colour, markersize=10, zorder=4)
        axes.set(xlabel=title, ylim=window)
    left.set_ylabel(f"{label}\nmean and its 95 % interval")
    if len(drawn) < len(points):
        figure.supxlabel("not drawn: " + ", ".join(names[n] for n in points if n not in drawn), fontsize=12)
    for axes, at in zip((left, right), places, strict=True):
        beside(axes, [(at[name], *means[name], names[name], looks[name].colour) for name in drawn])
    save(figure, path)


def _check(values: Mapping) -> None:
    if not values:
        raise InputError("expected scores of at least one method to draw, found none; finish a run first")


def _finite(values: Iterable[float]) -> list[float]:
    return [float(value) for value in values if math.isfinite(value)]


def _interval(values: Iterable[float]) -> tuple[float, float]:
    """(mean, half-width of the 95 % interval) of the finite values; NaN where there are too few."""
    finite = _finite(values)
    return mean_interval(finite) if finite else (math.nan, math.nan)


def _name(name: str, values: Iterable[float]) -> str:
    lost = sum(not math.isfinite(value) for value in values)
    return f"{name} ({lost} diverged)" if lost else name


def _last(values: Sequence[float]) -> float:
    """0 for a finite curve, NaN for a diverged one."""
    return 0.0 if all(math.isfinite(value) for value in values) else math.nan


def _digits(values: Sequence[float]) -> int:
    """Decimals that show three digits of the largest value: 0.953, 95.3."""
    top = max((abs(value) for value in values), default=1) or 1
    return min(max(3 - math.ceil(math.log10(top)), 0), 8)


def _window(groups: Iterable[Sequence[float]], baselines: Iterable[float], far: float = 1.0) -> tuple[float, float]:
    """(low, high) of the axis: every seed; intervals and baselines too, unless the seeds get less than a third."""
    groups = [_finite(group) for group in groups]
    seeds = list(itertools.chain(*groups)) or _finite(baselines) or [0.0]
    low, high = min(seeds), max(seeds)
    span = high - low or 0.05 * abs(high) or 1.0
    ends = [mean + s * half for mean, half in map(_interval, groups) if not math.isnan(half) for s in (-1, 1)]
    ends = [min(max(end, low - span), high + span) for end in ends]
    ends += [value for value in _finite(baselines) if low - far * span <= value <= high + far * span]
    low, high = min([low, *ends]), max([high, *ends])
    margin = 0.06 * (high - low) or span
    return low - margin, high + margin


def _stagger(counts: Sequence[int], inches: float) -> list[str]:
    """Tick labels of a log axis of this length; a label too close to its left neighbour moves down a line."""
    texts, decade, end = [], inches / (math.log10(counts[-1] / counts[0]) or 1), -math.inf
    for count in counts:
        text, at = f"{count:,}", decade * math.log10(count)
        low = at - 0.055 * len(text) < end + 0.06
        texts.append("\n" * low + text)
        end = end if low else at + 0.055 * len(text)
    return texts


def _mean_curve(seeds: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """(steps, mean) over the steps that all seeds span; empty without a seed."""
    if not seeds:
        return np.empty(0), np.empty(0)
    grid = np.unique(np.concatenate([steps for steps, _ in seeds]))
    grid = grid[(grid >= max(steps[0] for steps, _ in seeds)) & (grid <= min(steps[-1] for steps, _ in seeds))]
    return grid, np.mean([np.interp(grid, steps, values) for steps, values in seeds], axis=0)


def _bar(
    axes: Axes, at: float, mean: float, half: float, window: tuple[float, float], paint: str, upright: bool = True
) -> None:
    """Draws mean ± half as a line; an end beyond the window becomes an arrow."""
    if math.isnan(half):
        return
    ends = [min(max(end, window[0]), window[1]) for end in (mean - half, mean + half)]
    axes.plot(
        *(([at, at], ends) if upright else (ends, [at, at])), color=paint, linewidth=3, solid_capstyle="butt", zorder=3
    )
    for end, whole, arrow in zip(ends, (mean - half, mean + half), "v^" if upright else "<>", strict=True):
        if end != whole:
            place = (at, end) if upright else (end, at)
            axes.plot(*place, arrow, color=paint, markersize=9, markeredgewidth=0, clip_on=False, zorder=3)


def _cost_axis(axes: Axes, values: Iterable[float], log: bool) -> float:
    """Labels log axes at 1, 2, 5 or at powers of 10; linear axes begin at 0. Returns where 0 is drawn."""
    values = list(values)
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    if not (log or high > 30 * low):
        axes.set_xlim(0, 1.15 * high)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        return 0.0
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    zero, edge = low / 10, 1.3 * (high / low) ** 0.12
    window = (low / edge, high * edge)
    for steps, stride in (((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        ticks = [step * 10.0**decade for decade in decades if decade % stride == 0 for step in steps]
        ticks = [tick for tick in ticks if window[0] <= tick <= window[1]]
        if len(ticks) <= 6:
            break
    labelled = {tick: _short(tick) for tick in ticks}
    if min(values, default=1) == 0:  # 0 gets its own tick, left of the log scale
        labelled = {zero: "0"} | {tick: text for tick, text in labelled.items() if tick >= 0.5 * low}
        window = (zero / edge, window[1])
    axes.set(xscale="log", xlim=window)
    axes.set_xticks(list(labelled), list(labelled.values()))
    axes.set_xticks([], minor=True)
    return zero


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
