"""What is planted in small real sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.doctor.real import Small


class Plant(NamedTuple):
    """A fault.

    Attributes:
      make: the set it is planted in.
      group: those of one group and set are planted together.
      kind: of the finding.
      severity: likewise.
      plant: plants it; returns the examples, or some of them: (split, row), or the names of what is no row.
    """

    make: Callable[[Path], Small]
    group: str
    kind: str
    severity: str
    plant: Callable[[Small], set]


def planting() -> tuple[list[Plant], Callable]:
    """(faults, a decorator that adds one to them)."""
    plants: list[Plant] = []

    def planted(make, group, kind, severity):
        def added(plant):
            plants.append(Plant(make, group, kind, severity, plant))
            return plant

        return added

    return plants, planted
