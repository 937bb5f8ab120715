"""Tables of the sweeps of unlabelled.py: test accuracy, and over no pretraining on the set, paired by seed.

python experiments/methods/unlabelled_table.py runs/methods/unlabelled/*

The runs' numbers go into `experiments/methods/unlabelled/SWEEP.csv`, from which the tables are made.
"""

import csv
import json
import sys
from pathlib import Path

from unlabelled import NONE

from jaxfer.evals.intervals import mean_interval

KEPT = Path(__file__).with_name("unlabelled")
FIELDS = ("model", "method", "way", "labels", "seed", "accuracy")


def runs(folder: Path) -> list[dict[str, str]]:
    """A line for each run with labels."""
    found = []
    for cell in json.loads((folder / "cells.json").read_text()):
        if cell["group"]:
            model, method, way, labels = cell["group"].removesuffix(" labels").split(", ")
            test = json.loads((folder / cell["folder"] / "result.json").read_text())["metrics"]["test"]
            told = (model, method, way, labels, str(cell["overrides"]["seed"]), f"{test['accuracy']:.6f}")
            found.append(dict(zip(FIELDS, told, strict=True)))
    return found


def table(lines: list[dict[str, str]]) -> str:
    """One line a network and way of pretraining, two columns for each way of training with labels."""
    scores: dict[tuple[str, ...], list[float]] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        key = tuple(line[field] for field in FIELDS[:4])
        scores.setdefault(key, []).append(float(line["accuracy"]))
    rows = list(dict.fromkeys(key[:2] for key in scores))
    columns = list(dict.fromkeys(key[2:] for key in scores))
    head = ["network", "pretraining", *(f"{way}, {labels} labels" for way, labels in columns)]
    shown = ["| " + " | ".join(head) + " |", "| --- | --- |" + " ---: |" * len(columns)]
    for model, method in rows:
        cells = [_cell(scores[model, method, *column], scores[model, NONE, *column]) for column in columns]
        name = method if method == NONE else f"`{method}`"
        shown.append("| " + " | ".join((model, name, *cells)) + " |")
    return "\n".join(shown)


def _cell(values: list[float], base: list[float]) -> str:
    mean, half = mean_interval(values)
    if values is base:
        return f"{mean:.3f} ± {half:.3f}"
    by, width = mean_interval([a - b for a, b in zip(values, base, strict=True)])
    return f"{mean:.3f}, {by:+.3f} [{by - width:+.3f}, {by + width:+.3f}]"


def main(folders: list[Path]) -> None:
    KEPT.mkdir(exist_ok=True)
    for folder in folders:
        with open(KEPT / f"{folder.name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(runs(folder))
    for kept in sorted(KEPT.glob("*.csv")):
        with open(kept, newline="") as file:
            print(table(list(csv.DictReader(file))), end="\n\n")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
