"""Random search: a trial is drawn from its number and the seed alone, so that more trials keep the first ones.

Bergstra and Bengio, 2012, Random Search for Hyper-Parameter Optimization.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

from jaxfer.sweeps.samplers.space import Trial


class Drawn(Trial):
    """A trial at random. A field's draw depends on its name, not on what is drawn before it.

    Args:
      seed: of the search.
      number: of the trial.
    """

    def __init__(self, seed: int, number: int):
        super().__init__()
        self._seed, self._number = seed, number

    def _rng(self, field: str) -> np.random.Generator:
        name = int.from_bytes(hashlib.sha256(field.encode()).digest()[:8])
        return np.random.default_rng((self._seed, self._number, name))

    def _float(self, field: str, low: float, high: float, log: bool) -> float:
        if log:
            return min(max(math.exp(self._rng(field).uniform(math.log(low), math.log(high))), low), high)
        return self._rng(field).uniform(low, high)

    def _integer(self, field: str, low: int, high: int, log: bool) -> int:
        if log:
            drawn = math.exp(self._rng(field).uniform(math.log(low - 0.5), math.log(high + 0.5)))
            return min(max(round(drawn), low), high)
        return int(self._rng(field).integers(low, high, endpoint=True))

    def _choice(self, field: str, values: tuple[Any, ...]) -> Any:
        return values[int(self._rng(field).integers(len(values)))]
