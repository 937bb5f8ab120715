"""How alike two networks of one kind see the same examples, unit by unit: linear CKA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer.errors import InputError
from jaxfer.network import Network
from jaxfer.training.tapped import vectors


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Centered kernel alignment of two sets of vectors, in [0, 1]; NaN where either doesn't vary.

    Kornblith et al., 2019, arXiv:1905.00414, section 3: <K, L> / (|K| |L|) of K = X X' and L = Y Y' of centered
    columns, Frobenius norms. It does not change with rotations and a common scale of the channels.

    Args:
      x: [examples, channels].
      y: [examples, other channels], of the same examples.

    Raises:
      InputError: of other numbers of examples.
    """
    if len(x) != len(y):
        raise InputError(f"expected vectors of the same examples, found {len(x)} and {len(y)}")
    x, y = (np.asarray(part, np.float64) - np.asarray(part, np.float64).mean(0) for part in (x, y))
    first, second = x @ x.T, y @ y.T
    own = np.linalg.norm(first) * np.linalg.norm(second)
    return float((first * second).sum() / own) if own > 0 else float("nan")


def likeness(before: Network, after: Network, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """{unit below the head: CKA of what it gives, as means over tokens or places}, where it gives one array.

    Args:
      before: a network.
      after: another one with these units.
      batches: of the examples, without padding.
    """
    units = [unit for unit in before.port.units[:-1] if unit in after.port.units]
    first, second = (_vectors(network, units, batches) for network in (before, after))
    return {unit: linear_cka(first[unit], second[unit]) for unit in units if unit in first and unit in second}


def _vectors(network: Network, units: Sequence[str], batches: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    readings, _ = vectors(network, units)

    @jax.jit
    def step(arrays: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        taps = network.with_arrays(*arrays)(batch, taps=tuple(readings)).taps
        return {unit: reading.read(taps[unit], batch)[0] for unit, reading in readings.items()}

    parts = [jax.device_get(step(network.arrays, batch)) for batch in batches]
    return {unit: np.concatenate([part[unit].reshape(len(part[unit]), -1) for part in parts]) for unit in readings}
