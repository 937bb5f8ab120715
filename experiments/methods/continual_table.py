"""Tables of the sweeps of continual.py: each run on the test splits of its own task and of all others (`jaxfer.chain`);
from these, average accuracy, forgetting, backward and forward transfer.

python experiments/methods/continual_table.py runs/methods/continual runs/methods/continual_reviews

Every score goes into `experiments/methods/continual/NAME.csv`: a line for each arm, seed, last task trained on and task
tested; the tables are made from it, and with `--matrix=ARM` that of an arm's means over the seeds. What is there of the
same runs (`run` names a chain's last one) is not computed again.

Forward transfer needs a head that all tasks share, as reviews have: what a run scores on the next task less what a
network scores there that was never trained. Digits have a head each, so nothing can be said of a task before it is
trained on.
"""

import argparse
import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import jaxfer
from jaxfer.evals.intervals import mean_interval
from jaxfer.evals.transfer_matrix import transfer

KEPT = Path(__file__).with_name("continual")
UNTRAINED = "untrained"
NUMBERS = {
    "average": "average accuracy",
    "forgetting": "forgetting",
    "backward": "backward transfer",
    "forward": "forward transfer",
}
FIELDS = ("arm", "seed", "run", "trained", "tested", "accuracy")  # trained: the last task
Line = dict[str, str]


def chains(folder: Path) -> tuple[Sequence[str], dict[tuple[str, str], list[Path]]]:
    """(the tasks in order, {(arm, seed): the folders of its chain}) of the finished ones; `untrained` is one of
    networks that weren't trained."""
    found: dict[tuple[str, str], list[Path]] = {}
    cells = {cell["name"]: cell for cell in json.loads((folder / "cells.json").read_text())}
    tasks = tuple(dict.fromkeys(name.rpartition("_")[2] for name in cells if name.startswith("full")))
    arms = dict.fromkeys(re.sub(r"\d+_\w+$", "", name) for name in cells)
    for arm, name in (
        (arm, name) for arm in arms for name in cells if re.fullmatch(rf"{re.escape(arm)}\d+_{tasks[-1]}", name)
    ):
        seed = re.search(r"(\d+)_\w+$", name)[1]
        named = [(f"{arm}{seed}_{task}", f"full{seed}_{task}") for task in tasks]
        chain = [folder / cells[own if own in cells else first]["folder"] for own, first in named]
        if all((each / "result.json").exists() for each in chain):
            found[arm, seed] = chain
    return tasks, found


def lines(tasks: Sequence[str], arm: str, seed: str, chain: Sequence[Path]) -> list[Line]:
    """What each run of a chain scores on each task's test split; an untrained network on its own alone."""
    if arm == UNTRAINED:
        results = [json.loads((run / "result.json").read_text()) for run in chain]
        scores = {("", task): r["metrics"]["test"]["accuracy"] for task, r in zip(tasks, results, strict=True)}
    else:
        rows = jaxfer.chain(chain, split="test").scores
        scores = {(a, b): x for a, row in zip(tasks, rows, strict=True) for b, x in zip(tasks, row, strict=True)}
    return [
        dict(zip(FIELDS, (arm, seed, chain[-1].name, trained, tested, f"{score:.6f}"), strict=True))
        for (trained, tested), score in scores.items()
        if not math.isnan(score)
    ]


def scored(folder: Path, file: Path, kept: Sequence[Line]) -> list[Line]:
    """The lines of a sweep's chains, written after each; those in `kept` of the same runs are not computed again."""
    tasks, chained = chains(folder)
    found: list[Line] = []
    for (arm, seed), chain in chained.items():
        own = [line for line in kept if (line["arm"], line["seed"], line["run"]) == (arm, seed, chain[-1].name)]
        found += own or lines(tasks, arm, seed, chain)
        with open(file, "w", newline="") as write:
            writer = csv.DictWriter(write, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
    return found


def matrices(found: Sequence[Line]) -> dict[str, dict[str, list[list[float]]]]:
    """{arm: {seed: [trained][tested]}}, nan where a task has no head yet."""
    tasks = list(dict.fromkeys(line["tested"] for line in found))
    every: dict[str, dict[str, list[list[float]]]] = {}
    for line in found:
        blank = [[math.nan] * len(tasks) for _ in tasks]
        row = tasks.index(line["trained"] or tasks[0])
        every.setdefault(line["arm"], {}).setdefault(line["seed"], blank)[row][tasks.index(line["tested"])] = float(
            line["accuracy"]
        )
    return every


def table(found: Sequence[Line]) -> str:
    """A line for each arm: means over the seeds with their intervals."""
    every = matrices(found)
    untrained = {seed: rows[0] for seed, rows in every.pop(UNTRAINED, {}).items()}
    numbers = [name for name in NUMBERS if name != "forward" or untrained]
    rows = ["| method | " + " | ".join(NUMBERS[name] for name in numbers) + " |"]
    rows.append("| --- |" + " ---: |" * len(numbers))
    for arm, by_seed in every.items():
        each = [transfer(scores, untrained.get(seed)) for seed, scores in by_seed.items()]
        cells = []
        for number in numbers:
            values = [getattr(one, number) for one in each]
            cells.append("" if None in values else "{:.3f} ± {:.3f}".format(*mean_interval(values)))
        rows.append(f"| `{arm}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def matrix(found: Sequence[Line], arm: str) -> str:
    """An arm's mean accuracy on each task after each task."""
    tasks = list(dict.fromkeys(line["tested"] for line in found))
    rows = [f"| `{arm}`, after | " + " | ".join(tasks) + " |", "| --- |" + " ---: |" * len(tasks)]
    for i, task in enumerate(tasks):
        means = [mean(scores[i][j] for scores in matrices(found)[arm].values()) for j in range(len(tasks))]
        rows.append(f"| {task} | " + " | ".join("" if math.isnan(x) else f"{x:.3f}" for x in means) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--matrix", help="an arm")
    arguments = parser.parse_args()
    KEPT.mkdir(exist_ok=True)
    for folder in arguments.folders:
        file, found = KEPT / f"{folder.name}.csv", []
        if file.exists():
            with open(file, newline="") as read:
                found = list(csv.DictReader(read))
        if (folder / "cells.json").exists():
            found = scored(folder, file, found)
        if not found:
            print(f"{folder}: no chain of runs has ended")
            continue
        print(table(found), end="\n\n")
        if arguments.matrix:
            print(matrix(found, arguments.matrix), end="\n\n")


if __name__ == "__main__":
    main()
