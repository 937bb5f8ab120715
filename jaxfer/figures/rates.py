"""A picture of the loss under a rising learning rate, with the rates that the curve suggests."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from etils import epath

from jaxfer import files
from jaxfer.figures.look import COLOURS, DASHES, INK, drawn, new_figure


@drawn
def curve(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestions: Mapping[str, float | None],
    path: epath.Path,
) -> None:
    """Draws PATH, a PNG: losses as dots, their average as a line, a dashed line at each suggestion.

    Args:
      rates: [steps], on a logarithmic axis.
      losses: [steps].
      smoothed: [steps].
      suggestions: {rule: rate}; None is not drawn.
      path: ends in `.png`.
    """
    figure = new_figure(7, 4.2)
    axes = figure.add_subplot()
    axes.plot(rates, losses, "o", color="#BBBBBB", markersize=3.5, label="of a step")
    axes.plot(rates, smoothed, color=COLOURS["full"], linewidth=2, label="smoothed")
    for (rule, rate), dash in zip(suggestions.items(), DASHES, strict=False):
        if rate is not None:
            axes.axvline(rate, color=INK, linestyle=dash, linewidth=1.2, label=f"{rule}: {rate:.2g}")
    axes.set(xscale="log", xlabel="learning rate of the fastest group", ylabel="training loss")
    low, high = min(*smoothed, *losses), max(smoothed[: max(2, len(smoothed) * 2 // 3)])
    axes.set_ylim(
        low - 0.1 * (high - low) - 1e-6, high + 0.4 * (high - low) + 1e-6
    )  # what diverges would hide the rest
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.legend(frameon=False, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    files.write_bytes(epath.Path(path), buffer.getvalue())
