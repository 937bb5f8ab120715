"""Runs the missing cells, in this process or in several; a failed cell does not stop the others.

What is finished or diverged is not run again, what failed is.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing.connection
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from jaxfer.errors import Interrupted, Preempted
from jaxfer.step import evaluated
from jaxfer.sweeps.attempts import DIVERGED, DONE, FAILED, Group, Outcome, Told, attempt
from jaxfer.sweeps.cells import Job
from jaxfer.sweeps.pool import Pool
from jaxfer.training.preemption import Notice, preemption_notice
from jaxfer.training.progress import Progress

__all__ = ["DIVERGED", "DONE", "FAILED", "Outcome", "Pool", "execute", "grouped", "shared_out"]

MEMBERS = 64  # cells of a group at most: its files are open at once, and an end of its process ends all of them

Watched = Callable[[Group, Progress | None], None]


def execute(
    jobs: Sequence[Job],
    folder: epath.Path,
    *,
    processes: int = 1,
    pool: Pool | None = None,
    told: Told,
    watched: Watched = lambda group, progress: None,
    trained: bool = False,
) -> dict[str, Outcome]:
    """Runs every cell that is not finished under `folder`.

    Args:
      jobs: each after the cell it starts from.
      folder: of the sweep.
      processes: 1 runs here, one cell after another; more run side by side, each compiling for itself.
      pool: processes that are there already, used in place of new ones; after an error they have ended.
      told: of every outcome, as it comes.
      watched: of a group's progress, and None once it has ended.
      trained: of every cell a split is to be read, and nothing trained: each process takes its share of them at once.

    Returns:
      {key: outcome} of every cell.

    Raises:
      Preempted: SIGTERM came; every cell under way is saved.
    """
    cells = list({p.key: p for p in jobs}.values())
    queue = _Queue(shared_out(cells, processes) if trained else grouped(cells), told)
    with preemption_notice() as notice:
        notice.grace = max((cell.config.get("grace", 0.0) for cell in cells), default=0.0)
        if pool is None and processes == 1:
            while group := queue.next(frozenset()):
                attempt(group, folder, queue.ended, functools.partial(watched, group))
                watched(group, None)
                if notice and not queue.done:
                    raise _stopped(queue, notice)
        else:
            with contextlib.nullcontext(pool) if pool is not None else Pool(min(processes, len(cells))) as pool:
                try:
                    _side_by_side(queue, folder, pool, notice, watched)
                except BaseException:  # here, where SIGTERM still waits for what they save
                    pool.close(notice.grace)
                    raise
    return queue.outcomes


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


class _Queue:
    """The order of groups of cells: none before its source, and none whose source is not done.

    Cells that others start from come first, then those of the program that most cells wait for: two processes that are
    left with one program at the end would both compile it.
    """

    def __init__(self, groups: list[Group], told: Told):
        self.waiting = groups
        self.total = sum(map(len, groups))
        self.outcomes: dict[str, Outcome] = {}
        self._told = told

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

    def ended(self, cell: Job, outcome: Outcome) -> None:
        self.outcomes[cell.key] = outcome
        self._told(cell, outcome)


def _stopped(queue: _Queue, notice: Notice) -> Preempted | Interrupted:
    return notice.stopped(f"{len(queue.outcomes)} of {queue.total} cells are done")


def _side_by_side(queue: _Queue, folder: epath.Path, pool: Pool, notice: Notice, watched: Watched) -> None:
    workers = pool.workers
    while not queue.done or any(worker.group is not None for worker in workers):  # its last word is still to come
        for worker in [w for w in workers if w.group is None]:
            others = frozenset().union(*(w.compiled for w in workers if w is not worker))
            group = queue.next(worker.compiled, others)
            if group is None:
                continue
            if not worker.sent(group, folder):  # killed while idle
                worker.process.join()
                worker = pool.replaced(worker)
                worker.sent(group, folder)
            worker.group, worker.compiled = group, worker.compiled | frozenset(group[0].programs)
        for pipe in multiprocessing.connection.wait([w.pipe for w in workers if w.group is not None], timeout=0.2):
            worker = next(w for w in workers if w.pipe is pipe)
            try:
                told = pipe.recv()
            except (EOFError, OSError):  # OSError: it died before it had read its cells
                worker.process.join()
                if notice:
                    break
                code = worker.process.exitcode
                died = Outcome(status=FAILED, message=f"its process died (exit code {code}); out of memory?")
                for cell in worker.group:
                    if cell.key not in queue.outcomes:
                        queue.ended(cell, died)
                pool.replaced(worker)
                told = None
            if told is None:
                watched(worker.group, None)
                worker.group = None
            elif isinstance(told, Progress):
                watched(worker.group, told)
            else:
                key, outcome = told
                queue.ended(next(cell for cell in worker.group if cell.key == key), outcome)
        if notice and not queue.done:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.process.join()
            raise _stopped(queue, notice)
