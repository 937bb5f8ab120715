"""Which cells a sweep has: those that the config's `sweep()` lists, or trials drawn from its `space(trial)`."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from jaxfer.errors import InputError, nearest
from jaxfer.sweeps import cells
from jaxfer.sweeps.cells import Cell
from jaxfer.sweeps.samplers import asha, halving
from jaxfer.sweeps.samplers.base import Sampler
from jaxfer.sweeps.samplers.random import Drawn
from jaxfer.sweeps.samplers.space import Trial, trial_cell

__all__ = ["OPTIONS", "SAMPLERS", "Grid", "Random", "Sampler", "Trial", "make"]


class Grid(Sampler):
    """The cells of `sweep()`, as it lists them."""

    def first(self, spec: str, overrides: Mapping[str, Any]) -> tuple[Cell, ...]:
        return cells.expand(spec, overrides)


@dataclasses.dataclass(frozen=True)
class Random(Sampler):
    """Trials at random, after the sources of `sweep()`.

    Attributes:
      count: how many.
      seed: of their draws.
    """

    count: int
    seed: int = 0

    @property
    def options(self) -> Mapping[str, Any]:
        return {"sampler": "random", "trials": self.count, "sampler_seed": self.seed}

    def first(self, spec: str, overrides: Mapping[str, Any]) -> tuple[Cell, ...]:
        drawn = [trial_cell(spec, number, Drawn(self.seed, number), overrides) for number in range(self.count)]
        return (*cells.preparations(spec, overrides), *drawn)


# {sampler: its options on the command line}
SAMPLERS: dict[str, tuple[str, ...]] = {
    "grid": (),
    "random": ("trials", "sampler_seed"),
    "halving": ("trials", "sampler_seed", "eta", "least"),
    "asha": ("trials", "sampler_seed", "eta", "least"),
    "hyperband": ("sampler_seed", "eta", "least"),
    "optuna": ("trials", "sampler_seed", "algorithm", "storage", "ask"),
}
OPTIONS = tuple(dict.fromkeys(option for options in SAMPLERS.values() for option in options))
# {sampler: its package, of the extra of the sampler's name}
PACKAGES = {"optuna": "optuna"}


def make(name: str | None = None, **options: Any) -> Sampler:
    """A sampler.

    Args:
      name: one of `SAMPLERS`; None: `grid`.
      options: of the command line, by name; None: not given.

    Raises:
      InputError: no such sampler, an option of another one or with a bad value, or its package is missing.
    """
    name, given = chosen(name, options, SAMPLERS)
    if name == "grid":
        return Grid()
    if "trials" in SAMPLERS[name] and "trials" not in given:
        raise InputError(f"--sampler={name}: how many trials? Set --trials, as in --trials=20")
    if name == "random":
        return Random(given["trials"], given.get("sampler_seed", 0))
    if name in ("halving", "hyperband"):
        return halving.make(**given)
    if name == "asha":
        return asha.make(**given)
    return module_of(name).make(**given)


def chosen(
    name: str | None, options: Mapping[str, Any], known: Mapping[str, Sequence[str]]
) -> tuple[str, dict[str, Any]]:
    """(the sampler, None being `grid`; the options that are given), checked against {sampler: its options}."""
    name = "grid" if name is None else name
    if name not in known:
        raise InputError(f"--sampler={name}: no such sampler{nearest(name, known)}")
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if option not in known[name]:
            owners = " or ".join(f"--sampler={owner}" for owner, own in known.items() if option in own)
            fix = f"leave it out, or use {owners}" if owners else "leave it out"
            raise InputError(f"--{option.replace('_', '-')}: --sampler={name} has no such option; {fix}")
    for option, least in (("trials", 1), ("sampler_seed", 0)):
        if type(given.get(option, least)) is not int or given.get(option, least) < least:
            shown = option.replace("_", "-")
            raise InputError(f"--{shown}: expected a whole number from {least} on, found {given[option]}")
    return name, given


def module_of(name: str, module: str = "") -> ModuleType:
    """A module of this folder, by default the sampler's own, which needs the sampler's package."""
    try:
        return importlib.import_module(f"jaxfer.sweeps.samplers.{module or name}")
    except ImportError as error:
        if (error.name or "").partition(".")[0] != PACKAGES[name]:
            raise
        raise InputError(f"--sampler={name} needs the package {PACKAGES[name]}; pip install 'jaxfer[{name}]'") from None
