"""Which settings of an arm are tried: of its grid, at random between the grid's ends, or those that Optuna asks for.

Every arm has as many trials, and trial 0 is its default setting.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxfer.data.order import Stream, permutation
from jaxfer.errors import InputError
from jaxfer.sweeps import samplers
from jaxfer.sweeps.cells import Job
from jaxfer.sweeps.samplers.random import Drawn
from jaxfer.sweeps.samplers.space import Trial

if TYPE_CHECKING:  # Optuna is slow to import, and may be missing
    from jaxfer.sweeps.samplers.study import Study

Setting = Mapping[str, float]
Spaces = Mapping[str, tuple[float, ...]]  # {hparam: values, the default first}


@runtime_checkable
class Sampler(Protocol):
    """How settings are chosen. One that leaves some to be drawn later has what `Optuna` has besides.

    Attributes:
      record: what protocol.json says of it.
    """

    record: Mapping[str, Any]

    def trials(self, arm: str, spaces: Spaces, count: int) -> tuple[Setting, ...]:
        """An arm's settings that are known beforehand, the default first; the others, up to `count`, are drawn later.

        Raises:
          InputError: there are fewer settings than trials.
        """


@dataclasses.dataclass(frozen=True)
class Grid:
    """The default and others drawn without replacement from the product of the spaces.

    An arm with nothing to tune, a head fitted at once say, has the same setting in each trial, and is run once.
    The draw depends on nothing but the size of the product, so that a comparison can be repeated.
    """

    @property
    def record(self) -> Mapping[str, Any]:
        return {}

    def trials(self, arm: str, spaces: Spaces, count: int) -> tuple[Setting, ...]:
        if not spaces:
            return ({},) * count
        settings = [dict(zip(spaces, values, strict=True)) for values in itertools.product(*spaces.values())]
        if len(settings) < count:
            raise InputError(
                f"config.compare.trials: {arm} has {len(settings)} settings, expected at least {count}: every arm "
                f"runs as many trials; lower it to {len(settings)}, or widen config.compare.grid"
            )
        others = permutation(len(settings) - 1, 0, Stream.TRIALS) + 1
        return tuple(settings[i] for i in (0, *sorted(others[: count - 1].tolist())))


@dataclasses.dataclass(frozen=True)
class Random:
    """The default and others drawn between the ends of each space; more trials keep the first ones.

    Attributes:
      seed: of the draws.
    """

    seed: int = 0

    @property
    def record(self) -> Mapping[str, Any]:
        return {"name": "random", "seed": self.seed}

    def trials(self, arm: str, spaces: Spaces, count: int) -> tuple[Setting, ...]:
        return (default(spaces), *(draw(Drawn(self.seed, number), spaces) for number in range(1, count)))


class Optuna:
    """The default, and others that are drawn while the comparison runs (`search.py`).

    Args:
      options: of `jaxfer.sweeps.samplers.study.Asking`.

    Attributes:
      asking: how a study is asked for trials.
    """

    def __init__(self, **options: Any):
        self._module = samplers.module_of("optuna", "study")
        self.asking = self._module.Asking(**options)

    @property
    def record(self) -> Mapping[str, Any]:
        asking = self.asking
        return {"name": "optuna", "algorithm": asking.algorithm, "seed": asking.seed, "ask": asking.ask}

    def trials(self, arm: str, spaces: Spaces, count: int) -> tuple[Setting, ...]:
        return (default(spaces),) * (1 if ranges(spaces) else count)

    def study(self, trials: int, make: Callable[[int, Trial], Sequence[Job]], first: Setting) -> Study:
        """One arm's, at one number of labels; `first` is the setting of trial 0."""
        return self._module.Study(self.asking, trials, make, first=first)


def checked(sampler: Sampler | None) -> Sampler:
    """A comparison's sampler, by default the grid; `InputError` for another object, such as a sweep's."""
    if sampler is not None and not isinstance(sampler, Sampler):
        raise InputError(
            f"sampler: expected one that jaxfer.comparison.samplers.make makes, found {type(sampler).__name__} of "
            f"{type(sampler).__module__}"
        )
    return sampler or Grid()


def default(spaces: Spaces) -> Setting:
    """The setting that is tried first."""
    return {hparam: values[0] for hparam, values in spaces.items()}


def ranges(spaces: Spaces) -> dict[str, tuple[float, float]]:
    """{hparam: its least and its largest value} of those that have several."""
    return {hparam: (min(values), max(values)) for hparam, values in spaces.items() if len(values) > 1}


def draw(trial: Trial, spaces: Spaces) -> Setting:
    """A setting: numbers above 0 by their logarithm; an hparam of one value keeps it."""
    between = ranges(spaces)
    return {
        hparam: values[0]
        if hparam not in between
        else (trial.loguniform if min(values) > 0 else trial.uniform)(hparam, *between[hparam])
        for hparam, values in spaces.items()
    }


# {sampler: its options on the command line}
SAMPLERS: dict[str, tuple[str, ...]] = {
    name: tuple(option for option in samplers.SAMPLERS[name] if option != "trials")
    for name in ("grid", "random", "optuna")
}


def make(name: str | None = None, **options: Any) -> Sampler:
    """A comparison's sampler; how many trials an arm has is `config.compare.trials`.

    Args:
      name: one of `SAMPLERS`; None: `grid`.
      options: of the command line, by name; None: not given.

    Raises:
      InputError: no such sampler, one whose trials differ in steps, an option of another one or with a bad value, or
        its package is missing.
    """
    if options.get("trials") is not None:
        raise InputError("--trials: each arm of a comparison has config.compare.trials; set --config.compare.trials")
    if name in samplers.SAMPLERS and name not in SAMPLERS:
        raise InputError(
            f"--sampler={name}: the arms of a comparison would have different numbers of steps, as its trials have; "
            f"use {', '.join(SAMPLERS)}"
        )
    name, given = samplers.chosen(name, options, SAMPLERS)
    if name == "grid":
        return Grid()
    seed = given.pop("sampler_seed", 0)
    return Random(seed) if name == "random" else Optuna(seed=seed, **given)
