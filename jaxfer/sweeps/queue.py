"""Groups of cells, and the order in which they are run: none before its source."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxfer.step import evaluated
from jaxfer.sweeps.attempts import DONE, FAILED, Group, Outcome, Told
from jaxfer.sweeps.cells import Job

MEMBERS = 64  # cells of a group at most: its files are open at once, and an end of its process ends all of them


def grouped(cells: Sequence[Job]) -> list[Group]:
    """The cells in groups that are run together; which ones follows from the cells alone, not from what is done."""
    groups: list[list[Job]] = []
    open_groups: dict[tuple[str, tuple[str, ...]], list[Job]] = {}
    for cell in cells:
        group = open_groups.get((cell.alike, cell.sources))
        if not cell.alike or group is None or len(group) == MEMBERS:
            groups.append(group := [])
            open_groups[cell.alike, cell.sources] = group
        group.append(cell)
    return [tuple(group) for group in groups]


def shared_out(cells: Sequence[Job], processes: int) -> list[Group]:
    """The cells in a group for each process, next to each other those that one program evaluates."""
    shapes: dict[Any, list[Job]] = {}
    for cell in cells:
        spec, _ = cell.programs[-1]
        # On stored features the program is another one.
        probes = all(path.startswith(f"{spec.port.head}/") for path in spec.trainable)
        shapes.setdefault((evaluated(spec), probes), []).append(cell)
    ordered = list(itertools.chain.from_iterable(shapes.values()))
    size = max(1, -(-len(ordered) // processes))
    return [tuple(ordered[i : i + size]) for i in range(0, len(ordered), size)]


class Queue:
    """The order of groups of cells: none before its source, and none whose source is not done.

    `more` is asked for groups once all so far have ended, or, where it is `eager`, whenever a cell has.

    Cells that others start from come first, then those of the program that most cells wait for: two processes that are
    left with one program at the end would both compile it.
    """

    def __init__(
        self,
        groups: list[Group],
        told: Told,
        more: Callable[[Mapping[str, Outcome]], list[Group]] = lambda outcomes: [],
        *,
        eager: bool = False,
    ):
        self.waiting, self.total, self.outcomes = [], 0, dict[str, Outcome]()
        self._told, self._more, self._eager = told, more, eager
        self._add(groups)

    def _add(self, groups: list[Group]) -> None:
        # Of what is asked for early, the latest first: it goes on from what others have just begun.
        self.waiting = [*groups, *self.waiting] if self._eager else [*self.waiting, *groups]
        self.total += sum(map(len, groups))
        if (self.done or self._eager) and (groups := self._more(self.outcomes)):
            self._add(groups)

    @property
    def done(self) -> bool:
        return len(self.outcomes) == self.total

    def next(self, compiled: frozenset[Any], elsewhere: frozenset[Any] = frozenset()) -> Group | None:
        """A ready group whose programs are `compiled` already, else one that no other process has compiled."""
        ready = [group for group in self.waiting if self.outcomes.keys() >= set(group[0].sources)]
        for group in ready:
            undone = next((key for key in group[0].sources if self.outcomes[key].status != DONE), None)
            if undone is not None:
                self.waiting.remove(group)
                lost = Outcome(status=FAILED, message=f"the cell it starts from is not done ({undone})")
                for cell in group:
                    self.ended(cell, lost)
                return self.next(compiled, elsewhere)
        sources = {key for group in self.waiting for key in group[0].sources}
        waiting = Counter(cell.programs for group in self.waiting for cell in group)
        ready.sort(key=lambda g: (sources.isdisjoint(cell.key for cell in g), -waiting[g[0].programs]))
        orders = (
            lambda g: compiled.issuperset(g[0].programs),
            lambda g: elsewhere.isdisjoint(g[0].programs),
            lambda g: True,
        )
        for fits in orders:
            for group in filter(fits, ready):
                self.waiting.remove(group)
                return group
        return None

    def again(self, group: Group) -> None:
        """Puts a group back whose worker died before all of its cells had ended."""
        self.waiting.insert(0, group)

    def ended(self, cell: Job, outcome: Outcome) -> None:
        self.outcomes[cell.key] = outcome
        self._told(cell, outcome)
        if self.done or self._eager:
            self._add([])
