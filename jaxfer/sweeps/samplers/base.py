"""What a sampler answers while a sweep runs."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxfer.sweeps.attempts import Outcome
from jaxfer.sweeps.cells import Cell, Job


class Sampler:
    """Which cells a sweep has. Alone, those it has from the start: none is drawn later.

    Attributes:
      left: trials that are still to be drawn, while the sweep runs.
      options: those of the command line that ask for it; without a storage, whose address may hold a password.
      order: None: `more` is asked once all cells so far have ended. Else it is asked after every one, and this is the
        place of a job in the table, since which comes first is a matter of time.
    """

    left: int = 0
    options: Mapping[str, Any] = types.MappingProxyType({})
    order: Callable[[Job], Any] | None = None

    def first(self, spec: str, overrides: Mapping[str, Any]) -> tuple[Cell, ...]:
        """The cells that are known at once, sources before what starts from them.

        Raises:
          InputError: the config has none, or wrong ones.
        """
        raise NotImplementedError

    def begin(self, jobs: Sequence[Job], folder: epath.Path) -> None:
        """The sweep's folder is there, and claimed."""

    def more(self, outcomes: Mapping[str, Outcome]) -> Sequence[Job]:
        """The next cells to run, now that these have ended; none when all have: the sweep is done."""
        return ()

    def close(self) -> None:
        """All cells have ended."""
