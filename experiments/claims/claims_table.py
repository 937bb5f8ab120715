"""The table of the sweeps of claims.py: what transfer gains at equal steps, and what scratch costs until it is as good.

    python experiments/claims/claims_table.py runs/claims/*

The numbers of every run are kept in `experiments/claims/runs/SET.csv`; without an argument the table is made from these
files. Costs are operations of the compiled steps. A probe's are those of its head, and of the backbone once for each
training example.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from statistics import mean

from jaxfer.evals.intervals import mean_interval
from jaxfer.runs.history import monitor

KEPT = Path(__file__).with_name("runs")
FIELDS = ("amount", "arm", "seed", "labels", "metric", "val", "test", "gflops")
HEAD = (
    "set",
    "labels",
    "metric",
    "transfer",
    "its score",
    "scratch, as many steps",
    "gain, points",
    "gain, %",
    "3 x",
    "10 x",
    "30 x",
    "as good at",
    "operations of scratch / transfer",
    "the source's included",
)
Line = dict[str, str]


def lines(folder: Path) -> list[Line]:
    """A line for each run of a sweep: its scores, and the operations that its training took."""
    found, passes = [], {}
    for cell in json.loads((folder / "cells.json").read_text()):
        place = folder / cell["folder"] / "result.json"
        if not place.exists():
            continue
        run, (amount, arm) = json.loads(place.read_text()), (cell["group"] or "all source").split(" ", 1)
        config = json.loads(place.with_name("config.json").read_text())
        size, metric, labels = config["batch_size"], monitor(config).metric, run["examples"]["train"]
        operations = run["cost"]["step_flops"] * run["steps"]
        if arm == "full":
            passes[amount] = run["cost"]["forward_flops"] * labels / size
        scores = (
            f"{run['metrics'][split][metric]:.6f}" if split in run["metrics"] else "" for split in ("val", "test")
        )
        seed = str(cell["overrides"].get("seed", 0))
        found.append(
            dict(zip(FIELDS, (amount, arm, seed, str(labels), metric, *scores, f"{operations / 1e9:.4f}"), strict=True))
        )
    for line in found:
        if line["arm"] == "probe":
            line["gflops"] = f"{float(line['gflops']) + passes[line['amount']] / 1e9:.4f}"
    return found


def row(name: str, amount: str, found: list[Line]) -> list[str]:
    """The set's line of the table with few labels or all."""
    arms: dict[str, dict[str, Line]] = {}
    for line in found:
        if line["amount"] == amount:
            arms.setdefault(line["arm"], {})[line["seed"]] = line

    def average(arm: str, field: str) -> float:
        return mean(float(line[field]) for line in arms[arm].values())

    def chosen(*names: str) -> str:
        return max(names, key=lambda arm: average(arm, "val"))

    multiples = sorted({int(hit[1]) for arm in arms if (hit := re.match(r"scratch x(\d+)", arm))})
    ours = chosen("probe", "full")
    scratch = {n: chosen(*(arm for arm in arms if arm.startswith(f"scratch x{n} "))) for n in multiples}
    pairs = [(float(line["test"]), float(arms[scratch[1]][seed]["test"])) for seed, line in arms[ours].items()]
    by, half = mean_interval([100 * (a - b) for a, b in pairs])
    base, score = average(scratch[1], "test"), average(ours, "test")
    enough = next((n for n in multiples if average(scratch[n], "test") >= score), None)
    least = enough or multiples[-1]
    cost, own = average(scratch[least], "gflops"), average(ours, "gflops")
    source = sum(float(line["gflops"]) for line in found if line["arm"] == "source")
    above = "" if enough else "> "
    labels, metric = (next(iter(arms[ours].values()))[field] for field in ("labels", "metric"))
    later = {n: f"{average(arm, 'test'):.3f}" for n, arm in scratch.items()}
    return [
        name,
        f"{int(labels):,}",
        metric.replace("_", " "),
        f"`{ours}`",
        "{:.3f} ± {:.3f}".format(*mean_interval([a for a, _ in pairs])),
        "{:.3f} ± {:.3f}".format(*mean_interval([b for _, b in pairs])),
        f"{by:+.1f} [{by - half:+.1f}, {by + half:+.1f}]",
        f"{100 * (score - base) / base:+.0f}",
        *(later.get(n, "") for n in (3, 10, 30)),
        f"{enough} x" if enough else f"not at {least} x",
        f"{above}{cost / own:.1f}",
        f"{above}{cost / (own + source):.2f}" if source else "",
    ]


def main(folders: list[Path]) -> None:
    KEPT.mkdir(exist_ok=True)
    for folder in folders:
        with open(KEPT / f"{folder.name}.csv", "w", newline="") as out:
            writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines(folder))
    rows = []
    for file in sorted(KEPT.glob("*.csv")):
        with open(file, newline="") as read:
            found = list(csv.DictReader(read))
        rows += [row(file.stem, amount, found) for amount in ("few", "all")]
    print("| " + " | ".join(HEAD) + " |\n| --- | ---: | --- | --- |" + " ---: |" * (len(HEAD) - 4))
    for cells in rows:
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
