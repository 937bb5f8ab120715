"""Near copies among sounds, series and rows: examples far closer to each other than examples usually are.

Datalab's rule (Cleanlab, "near_duplicate"): nearer than 0.13 of the median distance to the nearest other example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping

import numpy as np
from sklearn.neighbors import NearestNeighbors

from jaxfer.diagnosis.duplicates import told
from jaxfer.diagnosis.finding import Finding
from jaxfer.diagnosis.opened import Opened

RATIO = 0.13  # of the median distance to the nearest
NEIGHBOURS = 5  # of an example that are looked at
LEAST = 20  # examples
COLUMNS = ("audio", "series", "row")  # images and texts are compared as such, and all of them


def check(opened: Opened, of: Mapping[str, np.ndarray], reads: str) -> Iterator[Finding]:
    """As for other copies: of each pair of splits and within each.

    Args:
      opened: its splits of the names train, val and test are the examples.
      of: {split: float [n, d]}.
      reads: what they are.
    """
    if any(encoding.column not in COLUMNS for encoding in opened.encodings):
        return
    names = [name for name in ("train", "val", "test") if name in of]
    opened = dataclasses.replace(opened, splits={name: opened.splits[name] for name in names})
    places: dict[Hashable, tuple[str, int]] = {}
    for name in names:
        for i, key in enumerate(opened.keys[name]):
            places.setdefault(key, (name, i))
    firsts = [*places.values()]  # of exact copies
    if len(firsts) < LEAST:
        return
    groups = [[firsts[i], firsts[j]] for i, j in close(np.stack([of[name][i] for name, i in firsts]))]
    how = f"nearer, by {reads}, than {RATIO} of the median distance to the nearest"
    yield from told(opened, groups, "near_", f"near copies ({how}) of", None)


def close(x: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of [n, d] by Euclidean distance; none where most have a copy."""
    distances, others = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(x) - 1)).fit(x).kneighbors()
    at, rank = np.nonzero(distances < RATIO * np.median(distances[:, 0]))
    pairs = np.sort(np.stack([at, others[at, rank]], 1), axis=1)
    return [(int(i), int(j)) for i, j in np.unique(pairs, axis=0)]
