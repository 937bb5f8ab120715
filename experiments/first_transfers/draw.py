"""The table and the picture of the README, from the tables that the sweeps and comparisons wrote.

python experiments/first_transfers/draw.py
python experiments/first_transfers/draw.py runs/stsb/sweep    # takes Spearman's correlation from its runs first
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import NamedTuple

from etils import epath

from jaxfer.evals.intervals import mean_interval, paired_interval
from jaxfer.figures.look import INK, drawn, new_figure, save, styles

HERE = Path(__file__).parent
ARMS = {"scratch": "scratch", "probe": "linear probe", "full": "fine-tuned"}


class Transfer(NamedTuple):
    """A folder beside this file: its title, its metric and {other method: its score}."""

    title: str
    metric: str
    others: dict[str, float]


# The other scores were measured outside jaxfer: features of the same weights in PyTorch, under scikit-learn's logistic
# regression, best of three C; TF-IDF is fitted on the training reports only.
TRANSFERS = {
    "flowers5": Transfer("Flowers, 5 kinds", "accuracy", {"reference probe": 0.693}),
    "fashion_mnist": Transfer("Fashion-MNIST, 100 a class", "accuracy", {}),
    "pneumonia_mnist": Transfer("PneumoniaMNIST", "accuracy", {}),
    "sst2": Transfer("SST-2, 1,000 labels", "accuracy", {"reference probe": 0.758}),
    "trec6": Transfer("TREC-6", "accuracy", {"reference probe": 0.886}),
    "stsb": Transfer("STS-B", "Spearman", {}),
    "radiology": Transfer("Radiology, 14 findings", "macro AUPRC", {"reference probe": 0.810, "TF-IDF": 0.875}),
}


def rows(name: str) -> dict[str, dict[str, str]]:
    """{arm: its row} from the table of a comparison or sweep; later files add to earlier ones."""
    found: dict[str, dict[str, str]] = {}
    for path in (HERE / name / "table.csv", HERE / name / "sweep" / "table.csv", HERE / name / "spearman.csv"):
        if path.exists():
            with path.open() as lines:
                for row in csv.DictReader(lines):
                    found[row["method"]] = {**found.get(row["method"], {}), **row}
    return found


def take_spearman(sweep: Path) -> None:
    """Writes stsb/spearman.csv: a sweep's table has the task's own metric, the mean squared error."""
    scores: dict[str, list[str]] = {}
    for cell in json.loads((sweep / "cells.json").read_text()):
        result = json.loads((sweep / cell["folder"] / "result.json").read_text())
        scores.setdefault(cell["group"], []).append(f"{result['metrics']['test']['spearman']:.6f}")
    lines = ["method,scores", *(f"{method},{' '.join(values)}" for method, values in scores.items())]
    (HERE / "stsb" / "spearman.csv").write_text("\n".join(lines) + "\n")


def seeds(row: dict[str, str]) -> list[float]:
    """The test score with each seed."""
    return [float(value) for value in (row.get("scores") or row["test_scores"]).split()]


def table() -> str:
    """A Markdown table: one column per arm, the lead of full fine-tuning over the probe, seconds of one run."""
    head = ["data, metric", *ARMS.values(), "fine-tuned - probe, 95 %", "others", "seconds"]
    lines = [f"| {' | '.join(head)} |", "| --- | ---: | ---: | ---: | ---: | --- | ---: |"]
    for name, transfer in TRANSFERS.items():
        found = rows(name)
        cells = [f"[{transfer.title}]({name}), {transfer.metric}"]
        for arm in ARMS:
            cells.append("{:.3f} ± {:.3f}".format(*mean_interval(seeds(found[arm]))) if arm in found else "")
        lead = paired_interval(seeds(found["full"]), seeds(found["probe"]))
        cells.append(f"{lead.mean:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]")
        simple = {arm: float(row["test_mean"]) for arm, row in found.items() if arm.startswith("logistic")}
        cells.append(", ".join(f"{what} {value:.3f}" for what, value in {**transfer.others, **simple}.items()))
        cells.append(" / ".join(f"{float(found[arm]['seconds']):.0f}" for arm in ARMS if arm in found))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@drawn
def picture() -> None:
    """One row per data set: every seed, each arm's mean, and a line at each other score."""
    figure, looks, named = new_figure(9.5, 7.2), styles(ARMS), set()
    axes = figure.add_subplot()
    for at, (name, transfer) in enumerate(TRANSFERS.items()):
        found = rows(name)
        for arm in (arm for arm in ARMS if arm in found):
            values, look = seeds(found[arm]), looks[arm]
            axes.scatter(values, [at + 0.3] * len(values), s=14, color=look.colour, linewidth=0)
            label = None if arm in named else ARMS[arm]
            named.add(arm)
            mean = mean_interval(values)[0]
            axes.plot(
                mean,
                at,
                look.marker,
                color=look.colour,
                markersize=11,
                markeredgecolor="white",
                label=label,
                linewidth=0,
            )
        for what, value in transfer.others.items():
            axes.plot([value] * 2, [at - 0.22, at + 0.36], color=INK, linewidth=1.4, zorder=1)
            side = "right" if what.startswith("reference") else "left"
            axes.text(value, at - 0.24, f" {what} ", ha=side, va="bottom", fontsize=10)
    titles = [f"{transfer.title}\n{transfer.metric}" for transfer in TRANSFERS.values()]
    axes.set_yticks(range(len(titles)), titles)
    axes.set(ylim=(len(titles) - 0.4, -0.7), xlabel="test score (higher is better); marks: means, dots: seeds")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    save(figure, epath.Path(HERE / "transfers"))


if __name__ == "__main__":
    if sys.argv[1:]:
        take_spearman(Path(sys.argv[1]))
    picture()
    print(table())
