"""How long the cells that are left will take, from what those that ended took."""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxfer.sweeps.attempts import Outcome
from jaxfer.sweeps.cells import Job


class Remaining:
    """An estimate that is made again after every cell.

    A cell takes as long as those with its programs: medians of the seconds for an example that it trains on, and of
    all others but for compiling. One whose programs are new takes the means of these, and what compiling a program took
    so far. Cells that are trained together end together: what is left of them counts once. Between two cells passes
    what their own clocks do not see, the median again. The first cell of all started its process: until another has
    ended, half of its other seconds count.

    Args:
      jobs: the cells.
      processes: how many run side by side.
      trained: they are there, and something is read of each: then they end as far apart as they did so far.
      clock: seconds.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        processes: int,
        *,
        trained: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._jobs, self._processes, self._trained = {job.key: job for job in jobs}, processes, trained
        self._clock, self._begun = clock, clock()
        self._first: float | None = None  # when a cell ended
        self._last = self._begun
        self._between: list[float] = []  # seconds
        self._took: defaultdict[Any, list[tuple[float, float]]] = defaultdict(list)  # for an example, else
        self._known: set[Any] = set()  # programs
        self._compiled, self._compiling = 0, 0.0  # programs, seconds

    def added(self, jobs: Iterable[Job]) -> None:
        """More cells."""
        self._jobs |= {job.key: job for job in jobs}

    def after(self, job: Job, outcome: Outcome, ended: Mapping[str, Any]) -> int:
        """Seconds left, rounded up, now that this one of `ended` has; 0 where none is left."""
        now = self._clock()
        if outcome.result is not None and not self._trained:
            cost = outcome.result["cost"]
            own = max(cost["seconds"] - cost["compile_seconds"], 0.0)
            example = 1 / max(cost["examples_per_second"], 1e-9)
            example = min(example, own / max(job.examples, 1))
            self._took[_kind(job)].append((example, own - example * job.examples))
            self._known |= set(job.programs)
            self._compiled += outcome.compiles
            self._compiling += cost["compile_seconds"]
            if self._first is not None:  # where several run side by side it may have begun before
                self._between.append(max(now - self._last - cost["seconds"], 0.0))
        self._first, self._last = now if self._first is None else self._first, now
        left = [other for key, other in self._jobs.items() if key not in ended]
        if not left:
            return 0
        if not self._took:
            apart = (now - self._first) / (len(ended) - 1) if len(ended) > 1 else now - self._begun
            return max(math.ceil(apart * len(left)), 1)
        work, units = self._work(left)
        return max(math.ceil(work / min(self._processes, units)), 1)

    def _work(self, left: list[Job]) -> tuple[float, int]:
        """(seconds of one process, how many could share them)."""
        usual = {kind: _each(statistics.median, times) for kind, times in self._took.items()}
        mean = _each(statistics.mean, usual.values())
        between, share = (statistics.median(self._between), 1.0) if self._between else (0.0, 0.5)
        work, units, begun = 0.0, 0, set[Any]()
        for job in left:
            kind = _kind(job)
            if kind in begun:
                continue
            if isinstance(kind, str):
                begun.add(kind)
            example, rest = usual.get(kind, mean)
            work, units = work + job.examples * example + share * rest + between, units + 1
        unknown = {program for other in left for program in other.programs} - self._known
        return work + len(unknown) * self._compiling / max(self._compiled, 1), units


def _each(middle: Callable[[Sequence[float]], float], pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    first, second = zip(*pairs, strict=True)
    return middle(first), middle(second)


def _kind(job: Job) -> Any:
    """Equal for cells that take alike; text for cells that are trained together."""
    return job.alike or job.programs
