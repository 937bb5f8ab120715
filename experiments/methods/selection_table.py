"""Tables of the sweeps of selection.py: the target's accuracy under the run that each score chooses (`jaxfer.select`).

python experiments/methods/selection_table.py runs/methods/selection/heart runs/methods/selection/reviews

Scores and accuracies of all runs go into `experiments/methods/selection/NAME.csv`; the tables are made from it. Runs
that are there are not scored again. The oracle chooses on the very split on which it is judged.
"""

import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import jaxfer
from jaxfer.evals.intervals import mean_interval
from jaxfer.evals.selecting import ORACLE, VAL
from jaxfer.evals.unsupervised_selection import SCORES

KEPT = Path(__file__).with_name("selection")
PLAIN = "source only"
BETTER = {**SCORES, VAL: True, ORACLE: True}  # whether more is better
FIELDS = ("pair", "seed", "candidate", "run", *BETTER)
Line = dict[str, str]


def scored(folder: Path, kept: Sequence[Line]) -> list[Line]:
    """A line for each candidate of each pair and seed whose runs have all ended."""
    known = {line["run"]: line for line in kept}
    cells: dict[tuple[str, str], list[dict]] = {}
    for cell in json.loads((folder / "cells.json").read_text()):
        cells.setdefault((cell["arg"], str(cell["overrides"]["seed"])), []).append(cell)
    found = []
    for (pair, seed), own in cells.items():
        runs = {str(folder / cell["folder"]): cell["group"] for cell in own}
        if all(Path(run).name in known for run in runs):
            found += [known[Path(run).name] for run in runs]
        elif all((Path(run) / "result.json").exists() for run in runs):
            for run, values in jaxfer.select([*runs]).runs.items():
                if any(math.isnan(values[name]) for name in BETTER):
                    raise ValueError(f"{run}: a score is not a number: {values}")
                numbers = {name: repr(float(values[name])) for name in BETTER}
                found.append({"pair": pair, "seed": seed, "candidate": runs[run], "run": Path(run).name, **numbers})
    return found


def table(name: str, lines: Sequence[Line]) -> str:
    """A line for each score: accuracy on the target under its choices, over source only and below the oracle."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["pair"], line["seed"]), []).append(line)

    def reached(score: str, group: Sequence[Line]) -> float:
        best = (max if BETTER[score] else min)(group, key=lambda line: float(line[score]))
        return float(best[ORACLE])

    def per_seed(of: dict[tuple[str, str], float]) -> list[float]:
        seeds = sorted({seed for _, seed in of})
        return [mean(x for (_, own), x in of.items() if own == seed) for seed in seeds]

    plain = {
        at: next(float(line[ORACLE]) for line in group if line["candidate"] == PLAIN) for at, group in groups.items()
    }
    shown = {PLAIN: plain, "a candidate at random": {a: mean(float(x[ORACLE]) for x in g) for a, g in groups.items()}}
    shown |= {score: {at: reached(score, group) for at, group in groups.items()} for score in BETTER}
    rows = [
        f"| {name}: chosen by | accuracy on the target | over {PLAIN} | below the oracle |",
        "| --- |" + " ---: |" * 3,
    ]
    for score, of in shown.items():
        changes = [a - b for a, b in zip(per_seed(of), per_seed(plain), strict=True)]
        by, half = mean_interval(changes)
        regret = mean(shown[ORACLE][at] - x for at, x in of.items())
        label = {ORACLE: "oracle, by the target's labels", VAL: "val of the source"}.get(score, score)
        over = "" if score == PLAIN else f"{by:+.3f} [{by - half:+.3f}, {by + half:+.3f}]"
        accuracy = "{:.3f} ± {:.3f}".format(*mean_interval(per_seed(of)))
        rows.append(f"| {label} | {accuracy} | {over} | {regret:.3f} |")
    return "\n".join(rows)


def main(folders: Sequence[Path]) -> None:
    KEPT.mkdir(exist_ok=True)
    for folder in folders:
        file, lines = KEPT / f"{folder.name}.csv", []
        if file.exists():
            with open(file, newline="") as read:
                lines = list(csv.DictReader(read))
        if (folder / "cells.json").exists():
            lines = scored(folder, lines)
            with open(file, "w", newline="") as write:
                writer = csv.DictWriter(write, FIELDS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(lines)
        if not lines:
            print(f"{folder}: no pair has all its runs")
            continue
        print(table(folder.name, lines), end="\n\n")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
