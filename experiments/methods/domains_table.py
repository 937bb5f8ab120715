"""Tables of the sweeps of domains.py: accuracy on the target's test split, and over source only, paired by seed.

python experiments/methods/domains_table.py runs/methods/digits runs/methods/heart

Each sweep's numbers go into `experiments/methods/domains/NAME.csv`, one line a run, beside those of other seeds that
are there; both tables are made from it. A method counts in a seed once all its runs have ended.
"""

import csv
import json
import operator
import sys
from pathlib import Path

from jaxfer.evals.intervals import mean_interval

KEPT = Path(__file__).with_name("domains")
MEASURES = ("accuracy", "auroc")  # the second of two classes alone; it does not ask how many are ill in a clinic
SOURCE, CEILING = "source only", "target labels"
BY = operator.itemgetter("pair", "seed")
OF = operator.itemgetter("method", "seed")


def runs(folder: Path) -> list[dict[str, str]]:
    """Lines of pair, method, seed and each measure on the target's test split."""
    found, cells = [], json.loads((folder / "cells.json").read_text())
    ended = [cell for cell in cells if (folder / cell["folder"] / "result.json").exists()]
    torn = {(cell["group"], cell["overrides"]["seed"]) for cell in cells if cell not in ended}
    for cell in ended:
        if not torn.isdisjoint((of, cell["overrides"]["seed"]) for of in (SOURCE, cell["group"])):
            continue
        test = json.loads((folder / cell["folder"] / "result.json").read_text())["metrics"]["test"]
        pair, seed = cell["arg"].partition(",")[0], str(cell["overrides"]["seed"])
        line = {"pair": pair, "method": cell["group"], "seed": seed}
        measures = [name for name in MEASURES if name in test]
        found.append({**line, **{name: f"{test[f'target/{name}']:.6f}" for name in measures}})
        if cell["group"] == SOURCE:
            reverse = "_".join(reversed(pair.split("_")))
            own = {name: f"{test[name]:.6f}" for name in measures}
            found.append({**line, "pair": reverse, "method": CEILING, **own})
    return sorted(found, key=BY)


def read(name: str) -> list[dict[str, str]]:
    """The lines that are kept; [] without any."""
    file = KEPT / f"{name}.csv"
    if not file.exists():
        return []
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def by_method(lines: list[dict[str, str]], measure: str) -> dict[str, dict[tuple[str, str], float]]:
    """{method: {(pair, seed): value}}."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for line in lines:
        found.setdefault(line["method"], {})[line["pair"], line["seed"]] = float(line[measure])
    return found


def units(scores: dict[tuple[str, str], float]) -> list[float]:
    """What an interval is over: the mean over pairs of each seed; where there is one seed, the pairs."""
    seeds = sorted({seed for _, seed in scores})
    if len(seeds) == 1:
        return [scores[key] for key in sorted(scores)]
    return [sum(pairs) / len(pairs) for seed in seeds if (pairs := [x for (_, s), x in scores.items() if s == seed])]


def table(name: str, lines: list[dict[str, str]], measure: str) -> str:
    """One line a method: the mean over pairs, its interval, the change, and each pair's mean."""
    scores, pairs = by_method(lines, measure), sorted({line["pair"] for line in lines})
    base = units(scores[SOURCE])
    shown = pairs if len(pairs) < 4 else []
    head = [
        name,
        f"{measure} on the target",
        f"over {SOURCE}",
        "pairs helped",
        *(p.replace("_", " to ") for p in shown),
    ]
    rows = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for method in (SOURCE, *(m for m in scores if m not in (SOURCE, CEILING)), CEILING):
        mean, half = mean_interval(units(scores[method]))
        row = [f"`{method}`" if method not in (SOURCE, CEILING) else method, f"{mean:.3f} ± {half:.3f}", "", ""]
        means = {pair: sum(pair_scores) / len(pair_scores) for pair, pair_scores in _of_pairs(scores[method]).items()}
        if method != SOURCE:
            by, width = mean_interval([a - b for a, b in zip(units(scores[method]), base, strict=True)])
            row[2] = f"{by:+.3f} [{by - width:+.3f}, {by + width:+.3f}]"
            plain = {pair: sum(x) / len(x) for pair, x in _of_pairs(scores[SOURCE]).items()}
            row[3] = f"{sum(means[pair] > plain[pair] for pair in pairs)} of {len(pairs)}"
        rows.append("| " + " | ".join((*row, *(f"{means[pair]:.3f}" for pair in shown))) + " |")
    return "\n".join(rows)


def _of_pairs(scores: dict[tuple[str, str], float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for (pair, _), x in scores.items():
        found.setdefault(pair, []).append(x)
    return found


def main(folders: list[Path]) -> None:
    KEPT.mkdir(exist_ok=True)
    for folder in folders:
        lines = read(folder.name)
        if (folder / "cells.json").exists() and (new := runs(folder)):
            own = {OF(line) for line in new}
            lines = sorted([*(line for line in lines if OF(line) not in own), *new], key=BY)
            with open(KEPT / f"{folder.name}.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, [*lines[0]], lineterminator="\n")
                writer.writeheader()
                writer.writerows(lines)
        if not lines:
            print(f"{folder}: no seed has all its runs")
            continue
        for measure in MEASURES:
            if measure in lines[0]:
                print(table(folder.name, lines, measure), end="\n\n")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
