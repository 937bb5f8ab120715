"""What several units of a frozen network give, each as one vector of an example, stored like features (`cached`)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.models.port import FEATURES, Port
from jaxfer.network import Network
from jaxfer.parallel.placement import Placement
from jaxfer.state import State
from jaxfer.training import feature_store
from jaxfer.training.cached import Cached
from jaxfer.training.features import Reading


def vectors(network: Network, units: Sequence[str]) -> tuple[dict[str, Reading], dict[str, str]]:
    """(how each unit is read as one vector: its mean over tokens or places, if it has any; why others can't be)."""
    found, left_out = {}, {}
    for unit in units:
        try:
            one = Reading.of(network, unit, False)
            reading = one if len(one.like) == 1 else Reading.of(network, unit, True)
        except InputError as error:
            left_out[unit] = str(error)
        else:
            found[unit] = reading
    return found, left_out


@dataclasses.dataclass(kw_only=True, eq=False)
class Tapped(Cached):
    """The stored vectors of several units, side by side; one pass gives all of them.

    Attributes:
      readings: of each unit.
    """

    readings: tuple[Reading, ...]

    @classmethod
    def of(cls, cached: Cached, readings: Sequence[Reading]) -> Tapped:
        """The same stage's, weights' and code's, of these units in place of the output layer's."""
        fields = {field.name: getattr(cached, field.name) for field in dataclasses.fields(cached)}
        at = "means of " + ", ".join(reading.unit for reading in readings)
        return cls(**{**fields, "at": at, "seconds": 0.0, "computed": 0}, readings=tuple(readings))

    def apart(self, split: Split) -> dict[str, np.ndarray]:
        """{unit: its vectors [n, width]} of a split that this gave."""
        ends = np.cumsum([reading.like[-1] for reading in self.readings])
        parts = np.split(split.columns[FEATURES].values[split.rows], ends[:-1], axis=1)
        return {reading.unit: part for reading, part in zip(self.readings, parts, strict=True)}

    @property
    def _shape(self) -> tuple[int, ...]:
        return (sum(reading.like[-1] for reading in self.readings),)

    def _step(self, port: Port, structure: Any, shardings: tuple[Any, ...]) -> Any:
        return _step(port, self.readings, self.where, structure, shardings)


@functools.lru_cache(maxsize=8)
def _step(
    port: Port, readings: tuple[Reading, ...], where: Placement, structure: Any, shardings: tuple[Any, ...]
) -> Any:
    """(params, model_state, batch) -> the vectors of all units, float32 [b, width]."""
    arguments, units = jax.tree.unflatten(structure, shardings), tuple(reading.unit for reading in readings)

    def step(params: Any, model_state: Any, batch: Any) -> jax.Array:
        taps = port.forward(params, model_state, batch, taps=units).taps
        return jnp.concatenate([reading.read(taps[reading.unit], batch)[0] for reading in readings], 1, dtype="float32")

    return jax.jit(step, in_shardings=(*arguments, where.batched), out_shardings=where.batched)


def column(cached: Cached, split: Split, state: State) -> Split:
    """The split with a column of its features: stored where there is room, else in memory.

    Raises:
      Unfinished: the process is asked to stop.
    """
    if feature_store.root() is None:
        return cached.in_memory(split, state)
    try:
        return cached.split(split, state)
    except OSError as error:
        cached.say(f"features are not kept: {error}")
        return cached.in_memory(split, state)
