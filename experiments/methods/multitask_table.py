"""Tables of the sweeps of multitask.py: test accuracy of each task and their mean, over networks alone, paired by seed.

python experiments/methods/multitask_table.py runs/methods/multitask/reviews runs/methods/multitask/heart

Each sweep's numbers go into `experiments/methods/multitask/NAME.csv`, one line a task, method and seed.
"""

import csv
import json
import statistics
import sys
from pathlib import Path

from multitask import METHODS, TASKS

from jaxfer.evals.intervals import mean_interval

KEPT = Path(__file__).with_name("multitask")
ALONE = "alone"


def runs(folder: Path) -> list[dict[str, str]]:
    """Lines of labels a class, method, seed, task, test accuracy, and seconds without those of compiling."""
    found, tasks = [], [*TASKS[folder.name]]
    for cell in json.loads((folder / "cells.json").read_text()):
        result = json.loads((folder / cell["folder"] / "result.json").read_text())
        method, alone = cell["group"].partition(",")[0], cell["arg"].partition(",")[2]
        cost = result["cost"]["seconds"] - result["cost"]["compile_seconds"]
        line = {
            "labels": str(cell["overrides"].get("data.labels_per_class", "all")),
            "method": method.partition(":")[0],
        }
        for task in [alone] if alone else tasks:
            test = result["metrics"]["test"]["accuracy" if task in (alone, tasks[0]) else f"{task}/accuracy"]
            seconds = cost if alone else cost / len(tasks)
            rest = {"seed": str(cell["overrides"]["seed"]), "task": task, "accuracy": f"{test:.6f}"}
            found.append({**line, **rest, "seconds": f"{seconds:.2f}"})
    return found


def means(lines: list[dict[str, str]], column: str) -> list[float]:
    """The mean over tasks of each seed."""
    seeds = sorted({line["seed"] for line in lines})
    return [statistics.mean(float(line[column]) for line in lines if line["seed"] == seed) for seed in seeds]


def table(name: str, lines: list[dict[str, str]]) -> str:
    tasks, labels = [*TASKS[name]], dict.fromkeys(line["labels"] for line in lines)
    head = [name, "labels a class", "mean accuracy", "over `alone`", *tasks, "seconds"]
    rows = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for count in labels:
        of = {m: [x for x in lines if (x["labels"], x["method"]) == (count, m)] for m in (ALONE, *METHODS)}
        base = means(of[ALONE], "accuracy")
        for method, own in of.items():
            mean, half = mean_interval(means(own, "accuracy"))
            by, width = mean_interval([a - b for a, b in zip(means(own, "accuracy"), base, strict=True)])
            over = "" if method == ALONE else f"{by:+.3f} [{by - width:+.3f}, {by + width:+.3f}]"
            each = [f"{statistics.mean(float(x['accuracy']) for x in own if x['task'] == task):.3f}" for task in tasks]
            # Networks alone are trained five at a time in one program, whose seconds are no other run's.
            seconds = f"{len(tasks) * statistics.median(means(own, 'seconds')):.1f}" if method != ALONE else ""
            rows.append(
                "| " + " | ".join([f"`{method}`", count, f"{mean:.3f} ± {half:.3f}", over, *each, seconds]) + " |"
            )
    return "\n".join(rows)


def main(folders: list[Path]) -> None:
    KEPT.mkdir(exist_ok=True)
    for folder in folders:
        kept = KEPT / f"{folder.name}.csv"
        if (folder / "cells.json").exists():
            lines = runs(folder)
            with open(kept, "w", newline="") as file:
                writer = csv.DictWriter(file, [*lines[0]], lineterminator="\n")
                writer.writeheader()
                writer.writerows(lines)
        with open(kept, newline="") as file:
            print(table(folder.name, list(csv.DictReader(file))), end="\n\n")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
