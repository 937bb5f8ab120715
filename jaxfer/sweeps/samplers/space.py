"""A config's `space(trial)`: what it draws from a trial are the overrides of a cell.

def space(trial):
    trial.loguniform("lr", 1e-4, 1e-1)
    if trial.choice("method", ("probe", "lora")) == "lora":
        trial.integer("options.rank", 1, 8)
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer import config as configs
from jaxfer.errors import InputError
from jaxfer.sweeps.cells import Cell


class Trial(abc.ABC):
    """One point of a space. Each draw sets the field of its name, and returns the value.

    Attributes:
      drawn: {field: value}
    """

    def __init__(self) -> None:
        self.drawn: dict[str, Any] = {}

    def uniform(self, field: str, low: float, high: float) -> float:
        """A number of [low, high]."""
        return self._between(field, low, high, False)

    def loguniform(self, field: str, low: float, high: float) -> float:
        """A number whose logarithm is uniform; low > 0."""
        return self._between(field, low, high, True)

    def integer(self, field: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number, `high` included."""
        _check_range(field, low, high, log)
        if type(low) is not int or type(high) is not int:
            raise InputError(f"space: {field}: expected whole numbers as bounds, found {low!r} and {high!r}")
        return self._set(field, lambda: self._integer(field, low, high, log))

    def choice(self, field: str, values: Sequence[Any]) -> Any:
        """One of these: texts, numbers, booleans or None."""
        values = tuple(values) if isinstance(values, (list, tuple)) else ()
        if not values or not all(value is None or isinstance(value, (str, int, float)) for value in values):
            raise InputError(f"space: {field}: expected a list of texts, numbers, booleans or None to choose from")
        return self._set(field, lambda: self._choice(field, values))

    def _between(self, field: str, low: float, high: float, log: bool) -> float:
        _check_range(field, low, high, log)
        return self._set(field, lambda: float(self._float(field, float(low), float(high), log)))

    def _set(self, field: str, draw: Any) -> Any:
        if not isinstance(field, str) or not field:
            raise InputError(f"space: expected the dotted name of a field, found {field!r}")
        if field in self.drawn:
            raise InputError(f"space: {field} is drawn twice; draw it once")
        self.drawn[field] = draw()
        return self.drawn[field]

    @abc.abstractmethod
    def _float(self, field: str, low: float, high: float, log: bool) -> float: ...

    @abc.abstractmethod
    def _integer(self, field: str, low: int, high: int, log: bool) -> int: ...

    @abc.abstractmethod
    def _choice(self, field: str, values: tuple[Any, ...]) -> Any: ...


def _check_range(field: str, low: Any, high: Any, log: bool) -> None:
    numbers = all(isinstance(bound, (int, float)) and math.isfinite(bound) for bound in (low, high))
    if not numbers or low > high or (log and low <= 0):
        above = ", above 0," if log else ""
        raise InputError(f"space: {field}: expected bounds{above} of which the first is lower, found {low!r}, {high!r}")


def trial_cell(spec: str, number: int, trial: Trial, overrides: Mapping[str, Any]) -> Cell:
    """The cell of a trial, under the command line's overrides; its row is named after what was drawn.

    Raises:
      InputError: no `space(trial)`, or one that fails or draws nothing.
    """
    module, arg = configs.load_module(spec)
    if not hasattr(module, "space"):
        raise InputError(f"{spec}: expected a config file with space(trial), which draws the trials; found none")
    configs.called(module, spec, "space", trial)
    if not trial.drawn:
        raise InputError(f"{spec}: space(trial) draws nothing; draw a field, as trial.loguniform('lr', 1e-4, 1e-1)")
    for field in trial.drawn.keys() & overrides.keys():
        raise InputError(f"--config.{field}: space(trial) draws it; leave one of them out")
    group = ",".join(f"{field}={_short(value)}" for field, value in trial.drawn.items())
    return Cell(name=f"trial {number}", arg=arg, overrides={**trial.drawn, **overrides}, group=group)


def _short(value: Any) -> str:
    # A row has the runs of one name: of four digits, some twenty draws were enough for two trials in one row.
    return f"{value:.6g}" if isinstance(value, float) else str(value)
