"""The table of the sweep of continual.py: each run on the test splits of its own task and of all before, under the head
that a task was last trained with; from these, average accuracy, forgetting and backward transfer.

python experiments/methods/continual_table.py runs/methods/continual

Heads are a task's own, so that nothing can be said of a task before it is trained on: there is no forward transfer. The
scores of a chain are kept in transfer.json beside the table, and are not computed again.
"""

import dataclasses
import json
import math
import re
import sys
from pathlib import Path

from jaxfer import rules
from jaxfer.evals.intervals import mean_interval
from jaxfer.evals.transfer_matrix import transfer
from jaxfer.parallel.placement import placement
from jaxfer.runs.finished import FinishedRun
from jaxfer.step import UNCHANGED
from jaxfer.training.evaluation import evaluate_split, reopened

TASKS = ("01", "23", "45", "67", "89")
NUMBERS = ("average", "forgetting", "backward")
BEFORE = ("memory", "former")  # the streams of the task before


def heads(run: FinishedRun) -> tuple[dict, dict]:
    """(the head of the run's task, that of the task before: {path: leaf}) as the run leaves them."""
    port = run.stage.spec.port
    leaves, below = rules.flatten(run.state.params), f"{port.head}/"
    streams = tuple(f"{below}{name}/" for name in BEFORE)
    own = {path: x for path, x in leaves.items() if path.startswith(below) and not path.startswith(streams)}
    former = {
        below + path.removeprefix(stream): x
        for stream in streams
        for path, x in leaves.items()
        if path.startswith(stream)
    }
    # lwf trains the head of the source beside a stream that is only evaluated.
    former |= {path.removeprefix("lwf/"): x for path, x in leaves.items() if path.startswith("lwf/")}
    return own, former


def matrix(folders: list[Path]) -> list[list[float]]:
    """Accuracy on the test split of each task (columns) after each (rows); NaN above the diagonal.

    A method that adds modules, `progressive`, keeps the network of each task: its scores stay what they were.
    """
    rows, splits, known = [], [], []
    for place, folder in enumerate(folders):
        run, experiment, data = reopened(folder, "test", "result", {})
        if run.stage.spec.method.merge is None:
            own = json.loads((folder / "result.json").read_text())["metrics"]["test"]["accuracy"]
            rows.append([*(rows[i][i] for i in range(place)), own, *[math.nan] * (len(folders) - place - 1)])
            continue
        splits.append(data.splits["test"])
        own, former = heads(run)
        known[place - 1 :] = [former] if place else []
        known.append(own)
        params, model_state = run.stage.leave(run.state)
        port = run.stage.spec.port.with_parts(())
        spec = dataclasses.replace(run.stage.spec, method=UNCHANGED, port=port, streams=())
        where, row = placement(experiment.parallel), [math.nan] * len(folders)
        for task, (head, split) in enumerate(zip(known, splits, strict=True)):
            seen = rules.unflatten({**rules.flatten(params), **head})
            state = run.state.replace(
                params=seen, model_state=model_state, extra={}, opt_state=(), hparams={}, key=None, others={}
            )
            found = evaluate_split(spec, where.place(spec, state), split, where, experiment.run.eval_batch_size)
            row[task] = found.metrics["accuracy"]
        rows.append(row)
    return rows


def chains(folder: Path) -> dict[str, list[list[Path]]]:
    """{method: the folders of each of its finished chains, in order}."""
    cells = {cell["name"]: cell for cell in json.loads((folder / "cells.json").read_text())}
    found: dict[str, list[list[Path]]] = {}
    for cell in cells.values():
        if not cell["group"] or not (folder / cell["folder"] / "result.json").exists():
            continue
        place = re.search(r"(\d+)_\w+$", cell["name"])[1]
        named = [(f"{cell['group']}{place}_{task}", f"full{place}_{task}") for task in TASKS]
        chain = [folder / cells[own if own in cells else first]["folder"] for own, first in named]
        found.setdefault(cell["group"], []).append(chain)
    return found


def main(folder: Path) -> None:
    place = folder / "transfer.json"
    kept = json.loads(place.read_text()) if place.exists() else {}
    print("| method | average accuracy | forgetting | backward transfer |\n| --- | ---: | ---: | ---: |")
    for method, every in chains(folder).items():
        numbers = []
        for chain in every:
            name = chain[-1].name
            if name not in kept:
                kept[name] = matrix(chain)
                place.write_text(json.dumps(kept))
            numbers.append(transfer(kept[name]))
        cells = []
        for number in NUMBERS:
            mean, half = mean_interval([getattr(each, number) for each in numbers])
            cells.append(f"{mean:.3f} ± {half:.3f}")
        print(f"| `{method}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
