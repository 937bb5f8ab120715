"""Tables of the sweeps of domains.py: accuracy on the target's test split, over source only and paired by seed.

python experiments/methods/domains_table.py runs/methods/mnist_usps runs/methods/usps_mnist
"""

import json
import sys
from pathlib import Path

from jaxfer.evals.intervals import mean_interval


def scores(folder: Path) -> dict[str, list[float]]:
    """{method: accuracy on the target's test split, by seed}."""
    found: dict[str, list[float]] = {}
    cells = json.loads((folder / "cells.json").read_text())
    for cell in sorted(cells, key=lambda cell: cell["overrides"]["seed"]):
        test = json.loads((folder / cell["folder"] / "result.json").read_text())["metrics"]["test"]
        swapped = "data.path" in cell["overrides"]
        found.setdefault(cell["group"], []).append(test["accuracy" if swapped else "target/accuracy"])
    return found


def main(folders: list[Path]) -> None:
    for folder in folders:
        found = scores(folder)
        print(f"| {folder.name} | accuracy on the target | over source only |\n| --- | ---: | ---: |")
        for name, values in found.items():
            mean, half = mean_interval(values)
            apart = ""
            if name != "source only":
                by, width = mean_interval([a - b for a, b in zip(values, found["source only"], strict=True)])
                apart = f"{by:+.3f} [{by - width:+.3f}, {by + width:+.3f}]"
            print(f"| {name} | {mean:.3f} ± {half:.3f} | {apart} |")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
