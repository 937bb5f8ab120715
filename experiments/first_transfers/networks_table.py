"""Tables of the sweeps of networks.py, texts.py and sounds.py: one row for each arm.

python experiments/first_transfers/networks_table.py runs/networks/*     # prints them, writes networks/SET.csv
"""

import csv
import json
import sys
from pathlib import Path

from jaxfer.evals.intervals import mean_interval

HERE = Path(__file__).parent / "networks"
# What the papers of the sets report, on test or, where there is none, on dev.
METRICS = ("accuracy", "worst_group_accuracy", "miou", "entity_f1", "f1", "exact_match")


def scores(folder: Path) -> dict[tuple[str, str], list[float]]:
    """{(arm, metric): its values by seed} of a finished sweep."""
    found: dict[tuple[str, str], list[float]] = {}
    cells = json.loads((folder / "cells.json").read_text())
    for cell in sorted(cells, key=lambda cell: cell["overrides"]["seed"]):
        metrics = json.loads((folder / cell["folder"] / "result.json").read_text())["metrics"]
        split = metrics.get("test") or metrics["val"]
        for metric in METRICS:
            if metric in split:
                found.setdefault((cell["group"], metric), []).append(split[metric])
    order = {cell["group"]: place for place, cell in enumerate(cells)}
    return dict(sorted(found.items(), key=lambda item: (order[item[0][0]], METRICS.index(item[0][1]))))


def main(folders: list[Path]) -> None:
    HERE.mkdir(exist_ok=True)
    for folder in folders:
        if not (folder / "cells.json").exists():
            continue  # data lies beside the sweeps
        found = scores(folder)
        metrics = [metric for metric in METRICS if any(key[1] == metric for key in found)]
        print(f"| {folder.name} | {' | '.join(metrics)} |\n| --- |{' ---: |' * len(metrics)}")
        for arm in dict.fromkeys(arm for arm, _ in found):
            means = (mean_interval(found[arm, metric]) for metric in metrics)
            print(f"| {arm} | {' | '.join('{:.3f} ± {:.3f}'.format(*mean) for mean in means)} |")
        with (HERE / f"{folder.name}.csv").open("w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("arm", "metric", "scores"))
            rows.writerows((*key, " ".join(f"{value:.6f}" for value in values)) for key, values in found.items())


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
