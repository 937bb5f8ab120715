"""Choosing a run for a target without labels: what scores that need none choose, beside what its labels would.

    jaxfer sweep experiments/methods/selection.py:heart --workdir runs/methods/selection/heart
    python experiments/methods/features.py reviews
    jaxfer sweep experiments/methods/selection.py:reviews --workdir runs/methods/selection/reviews
    python experiments/methods/selection_table.py runs/methods/selection/*

The pairs of domains.py; for each of them and each seed ten candidates: source only, and three methods at three weights
each (`trade_off`). Everything else is as there, `coral` of features too. The target's test split
is read at a run's end, for `oracle` and for what each choice is worth.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import domains

from jaxfer.sweeps import Cell

METHODS, TRADE_OFFS = ("coral", "mcc", "dann"), (0.1, 1.0, 10.0)
SEEDS = 3
get_config = domains.get_config


def sweep(arg):
    """arg: `heart` or `reviews`."""
    for source, target in domains.pairs(arg):
        pair = f"{source}_{target}"
        for seed in range(SEEDS):
            once = {"seed": seed, "test": True}
            yield Cell(arg=pair, overrides=once, group="source only")
            for method in METHODS:
                for weight in TRADE_OFFS:
                    fields = domains.METHODS[method]
                    options = {**fields.get("options", {}), "trade_off": weight}
                    yield Cell(arg=pair, overrides={**fields, "options": options, **once}, group=f"{method} {weight:g}")
