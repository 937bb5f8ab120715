"""The table and the picture of `jaxfer sweep experiments/recipes/config.py:SET`: effects over plain fine-tuning.

python experiments/recipes/report.py runs/recipes/SET ...     # prints a table of each, writes effects.{md,png,svg}

An effect is the mean over seeds of (arm - plain) on test, paired by seed, with Student's 95 % interval.
"""

import json
import sys
from pathlib import Path

from etils import epath
from matplotlib.ticker import MaxNLocator

from jaxfer.evals.intervals import mean_interval, paired_interval
from jaxfer.figures import look

METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1", "worst_group_accuracy": "worst group"}


def scores(folder: Path) -> dict[str, dict[str, list[float]]]:
    """{arm: {metric: its values on test, by seed}} of a finished sweep."""
    found: dict[str, dict[str, list[float]]] = {}
    cells = json.loads((folder / "cells.json").read_text())
    for cell in sorted(cells, key=lambda cell: cell["overrides"]["seed"]):
        result = json.loads((folder / cell["folder"] / "result.json").read_text())
        arm = found.setdefault(cell["group"], {})
        for metric in METRICS.keys() & result["metrics"]["test"].keys():
            arm.setdefault(metric, []).append(result["metrics"]["test"][metric])
    order = list(dict.fromkeys(cell["group"] for cell in cells))
    return {arm: found[arm] for arm in order}


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """A row for each arm: means with their own intervals, and effects over `plain`."""
    metrics = [metric for metric in METRICS if metric in found["plain"]]
    heads = ["arm", *(f"{METRICS[metric]} | effect" for metric in metrics)]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: | ---: |" * len(metrics)]
    for arm, values in found.items():
        parts = [arm]
        for metric in metrics:
            mean, half = mean_interval(values[metric])
            parts.append(f"{mean:.3f} ± {half:.3f}")
            if arm == "plain":
                parts.append("")
                continue
            effect = paired_interval(values[metric], found["plain"][metric])
            parts.append(f"{effect.mean:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]")
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines) + "\n"


@look.drawn
def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Effects and their intervals, a panel for each metric, an arm on each line; in colour where 0 is outside."""
    metrics = [metric for metric in METRICS if metric in found["plain"]]
    arms = [arm for arm in found if arm != "plain"][::-1]
    figure = look.new_figure(3.0 + 3.2 * len(metrics), 1.4 + 0.38 * len(arms))
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        for place, arm in enumerate(arms):
            effect = paired_interval(found[arm][metric], found["plain"][metric])
            sure = effect.low > 0 or effect.high < 0
            colour = look.COLOURS["full"] if sure else look.COLOURS["scratch"]
            ax.plot([effect.low, effect.high], [place, place], color=colour, linewidth=2)
            ax.plot([effect.mean], [place], "o", color=colour)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.axvline(0, color=look.INK, linewidth=1)
        ax.set(yticks=range(len(arms)), yticklabels=arms, xlabel=f"{METRICS[metric]}, over plain")
    look.save(figure, epath.Path(path))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        folder = Path(name)
        if not (folder / "cells.json").exists():
            continue  # the cuts lie beside the sweeps
        found = scores(folder)
        print(f"{folder.name}\n\n{table(found)}")
        (folder / "effects.md").write_text(table(found))
        draw(found, folder / "effects")
