"""Pictures of results: colour-blind safe (Okabe and Ito, 2008), readable at half size, one colour a method."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etils import epath
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from jaxfer.sweeps import Row

# A method keeps its colour in every picture; a method of one's own takes the next free one by its name.
COLOURS = {
    "scratch": "#7F7F7F",
    "probe": "#56B4E9",
    "full": "#D55E00",
    "lp_ft": "#CC79A7",
    "lora": "#009E73",
    "l2sp": "#E69F00",
}
SPARE = ("#0072B2", "#882255", "#44AA99", "#AA4499", "#999933")


def colour(method: str) -> str:
    """The colour of a method."""
    return COLOURS.get(method) or SPARE[sum(method.encode()) % len(SPARE)]


def methods(rows: Sequence[Row], path: epath.Path, label: str) -> None:
    """A score by method: every seed a dot, the mean a bar, its 95 % interval a line. Written as PNG to `path`."""
    figure = Figure(figsize=(7, 0.8 + 0.62 * len(rows)), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
        paint = colour(row.group)
        spread = [i + 0.28 * (2 * (k % 3) / 2 - 1) * 0.6 for k in range(len(row.scores))]
        axes.scatter(row.scores, spread, s=34, color=paint, alpha=0.45, linewidth=0, zorder=2)
        if not math.isnan(row.interval):
            axes.plot([row.mean - row.interval, row.mean + row.interval], [i, i], color=paint, linewidth=3, zorder=3)
        axes.plot([row.mean] * 2, [i - 0.3, i + 0.3], color=paint, linewidth=3, zorder=4)
        reach = max(row.mean + (0 if math.isnan(row.interval) else row.interval), *row.scores)
        axes.annotate(f"{row.mean:.3f}", (reach, i), (8, 0), textcoords="offset points", va="center", fontsize=13)
    axes.set_yticks(range(len(rows)), [row.group for row in rows], fontsize=13)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.1 * (right - left))
    axes.set_xlabel(f"{label} (dots: seeds; bars: mean and its 95 % interval)", fontsize=12)
    axes.tick_params(axis="x", labelsize=12)
    axes.grid(axis="x", color="#DDDDDD", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    path.write_bytes(buffer.getvalue())
