"""What a rule of merging reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Leaves = Mapping[str, np.ndarray]


class Candidate(NamedTuple):
    """A merged network.

    Attributes:
      tried: {name: value}, the same names for every candidate of a rule.
      leaves: {path: leaf}.
    """

    tried: dict[str, Any]
    leaves: Leaves


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Networks to merge. Leaves are float64, parameters and running statistics by one path each.

    Attributes:
      networks: {name: leaves}.
      base: leaves of the start that the networks have in common.
      fresh: paths of the leaves that the start does not share with them: a new head's.
      statistics: paths of the running statistics. They are averaged, since a sum of changes may be no variance.
      fisher: (name of a network, whether labels are those it expects) -> {path: its diagonal Fisher information}.
      grams: name of a network -> {path of a kernel: the mean of x x', [fan in, fan in]}, of dense layers.
      seed: of what is drawn.
    """

    networks: Mapping[str, Leaves]
    base: Leaves
    fresh: frozenset[str] = frozenset()
    statistics: frozenset[str] = frozenset()
    fisher: Callable[[str, bool], Leaves] = lambda name, expected: {}
    grams: Callable[[str], Leaves] = lambda name: {}
    seed: int = 0

    @property
    def mean(self) -> dict[str, np.ndarray]:
        """The mean of the networks."""
        return mean(self.networks.values())


def mean(networks: Any) -> dict[str, np.ndarray]:
    """The mean of leaves of the same paths."""
    first, *others = networks
    return {path: sum((leaves[path] for leaves in others), leaf) / (1 + len(others)) for path, leaf in first.items()}
