"""Tables of the sweeps of continual.py: each run on the test splits of its own task and of all before (`jaxfer.chain`);
from these, average accuracy, forgetting, backward and forward transfer.

python experiments/methods/continual_table.py runs/methods/continual runs/methods/continual_reviews

Forward transfer needs a head that all tasks share, as reviews have: what a run scores on the next task less what a
network scores there that was never trained. Digits have a head each, so nothing can be said of a task before it is
trained on. The scores of a chain are kept in transfer.json beside the sweep's table, and are not computed again.
"""

import json
import re
import sys
from pathlib import Path

import jaxfer
from jaxfer.evals.intervals import mean_interval
from jaxfer.evals.transfer_matrix import transfer

NUMBERS = {
    "average": "average accuracy",
    "forgetting": "forgetting",
    "backward": "backward transfer",
    "forward": "forward transfer",
}


def chains(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """{arm: {seed: the folders of its chain, in order}} of the finished ones; `untrained` is one of networks that
    weren't trained."""
    found: dict[str, dict[str, list[Path]]] = {}
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
            found.setdefault(arm, {})[seed] = chain
    return found


def main(folder: Path) -> None:
    place = folder / "transfer.json"
    kept = json.loads(place.read_text()) if place.exists() else {}
    every = chains(folder)
    untrained = {
        seed: [json.loads((run / "result.json").read_text())["metrics"]["test"]["accuracy"] for run in chain]
        for seed, chain in every.pop("untrained", {}).items()
    }
    numbers = [name for name in NUMBERS if name != "forward" or untrained]
    print("| method | " + " | ".join(NUMBERS[name] for name in numbers) + " |")
    print("| --- |" + " ---: |" * len(numbers))
    for arm, by_seed in every.items():
        found = []
        for seed, chain in by_seed.items():
            name = chain[-1].name
            if name not in kept:
                kept[name] = jaxfer.chain(chain, split="test").scores
                place.write_text(json.dumps(kept))
            found.append(transfer(kept[name], untrained.get(seed)))
        cells = []
        for number in numbers:
            values = [getattr(each, number) for each in found]
            cells.append("" if None in values else "{:.3f} ± {:.3f}".format(*mean_interval(values)))
        print(f"| `{arm}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        main(folder)
        print()
