"""From one table to another: a model that has rows of its leaves for columns (`Port.rows`) takes those of equal names.

`config.differs=("numbers",)` or `("categories",)` announces other columns. Their names, statistics and values are then
those of the data; a column, or a value of one, that the source has too keeps its row, and others are drawn anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.models.port import Port
from jaxfer.pretrained import located
from jaxfer.pretrained.foreign import Checkpoint
from jaxfer.registry import MODELS

# {option that is announced: others that follow it}
WITH = {"numbers": ("means", "stds"), "categories": ("values",)}
FITTED = frozenset(name for option, others in WITH.items() for name in (option, *others))
SHOWN = 4  # names in a ledger

Place = tuple[str, int]  # (leaf, row)


def announced(differs: Sequence[str]) -> frozenset[str]:
    """The options about columns that may differ from the source's."""
    return frozenset(name for option in differs if option in WITH for name in (option, *WITH[option]))


def shared(port: Port, source: Port) -> dict[str, tuple[Place | None, ...]]:
    """{leaf: for each of its rows the source's of the same name, or None}."""
    places = {name: (leaf, row) for leaf, names in source.rows for row, name in enumerate(names)}
    return {leaf: tuple(places.get(name) for name in names) for leaf, names in port.rows}


def carried(fresh: Any, places: Sequence[Place | None], leaves: Mapping[str, Any]) -> np.ndarray:
    """The fresh leaf with the rows that the source has.

    Args:
      fresh: [rows, ...].
      places: as `shared` gives them.
      leaves: {leaf: array} of the source.
    """
    values = np.array(fresh)
    for row, place in enumerate(places):
        if place is not None:
            values[row] = leaves[place[0]][place[1]]
    return values


def entry(names: Sequence[str], places: Sequence[Place | None], shape: Sequence[int]) -> dict[str, Any]:
    """The leaf's entry in a ledger."""
    kept = [name for name, place in zip(names, places, strict=True) if place is not None]
    new = [name for name, place in zip(names, places, strict=True) if place is None]
    origin = next((place[0] for place in places if place is not None), None)
    what = "re-initialised" if not kept else "resized" if new else "loaded"
    told = [f"{how} {_some(of)}" for how, of in (("kept", kept), ("drawn anew", new)) if of]
    return {"what": what, "from": origin, "shape": list(shape), "why": f"other columns: {'; '.join(told)}"}


def of_checkpoint(checkpoint: Checkpoint, port: Port) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """(`shared`, the source's leaves with rows, their keys) of a checkpoint in place of a run."""
    theirs = MODELS.make(checkpoint.layout.family, outputs=port.outputs, **checkpoint.options)
    table, tensors = checkpoint.layout.keys(theirs), located.weights(checkpoint.files)
    keys = {leaf: table[leaf] for leaf, _ in theirs.rows}
    leaves = {leaf: key.load(tensors[key.name]) for leaf, key in keys.items() if key.name in tensors}
    return shared(port, theirs), leaves, tuple(key.name for key in keys.values())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
