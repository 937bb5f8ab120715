"""Recipe: a published way to fine-tune, as a function from facts to stages, one file each in `jaxfer/recipes/`.

A recipe sees what is known before anything is allocated: the model's units, the number of training examples, what the
config sets itself. It returns fields of `config.stage.NAME`, which `jaxfer.training.filled` puts under the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxfer.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a recipe decides from.

    Attributes:
      levels: names of the model's units by distance from the head: the head's first, the input's last. Two towers have
        two units on a level.
      examples: training examples.
      classes: of the data; 0 of real targets.
      pretrained: whether `config.init` names weights.
      method: `config.method`.
      rates: {method: its rate where the config names none}, of `config.method`, `probe` and `full`.
      batch_size: examples per step.
      steps: `config.steps`, the whole run's, in steps.
      image: (height, width) of the first training image; () of other data.
      batch_norms: whether norms of the model keep running statistics, one of a neck aside.
      neck: whether it has one, whose norm no checkpoint has.
      largest_gradient: () -> the unit below the head whose gradient is largest relative to its parameters, where the
        run starts. It costs a step's compilation, so only a recipe that goes by it asks.
      given: {stage field: value} of those that the config sets to another value than the default. They win over what a
        recipe gives the field of this name, but for `steps` and `lr` of several stages, which the recipe divides.
    """

    levels: tuple[tuple[str, ...], ...]
    examples: int
    classes: int = 0
    pretrained: bool = True
    method: str = "full"
    rates: Mapping[str, float] = field(default_factory=dict)
    batch_size: int = 32
    steps: int = 100
    image: tuple[int, ...] = ()
    batch_norms: bool = False
    neck: bool = False
    largest_gradient: Callable[[], str] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def rate(self, method: str) -> float | None:
        """The config's rate, else the method's own; None where it has none: a head fitted at once."""
        rate = self.given.get("lr")
        return self.rates.get(method) if rate is None else rate


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe gives.

    Attributes:
      stages: {name: {field of a stage: value}} in order.
      source: the paper, or that the rule is our own.
      reasons: why these numbers, and what of the paper is left out, a line each.
    """

    stages: Mapping[str, Mapping[str, Any]]
    source: str
    reasons: tuple[str, ...] = ()


def of_units(units: Iterable[str]) -> str:
    """A pattern of the parameters of these units, those among them that a method adds."""
    return f"(.*/)?({'|'.join(map(re.escape, units))})/.*"


def parts(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Steps in proportion to the shares, which add up to `total`; at least one each if there are as many."""
    ends, done = [], 0.0
    for share in shares:
        done += share
        ends.append(round(total * done / sum(shares)))
    return tuple(max(1, end - begin) for begin, end in zip((0, *ends), ends, strict=False))


def chosen(value: str, known: Sequence[str], option: str) -> str:
    """The value, if it is one of these; else `InputError`."""
    if value not in known:
        raise InputError(f"config.recipe_options.{option}: expected one of {', '.join(known)}, found {value!r}")
    return value
