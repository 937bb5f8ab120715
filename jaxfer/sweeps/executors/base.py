"""What runs a sweep's cells, as the sweep sees it; and the loop of all executors that have workers."""

from __future__ import annotations

import abc
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from etils import epath

from jaxfer.errors import InputError, Interrupted, Preempted
from jaxfer.runs.folder import locked
from jaxfer.sweeps.attempts import FAILED, Group, Outcome
from jaxfer.sweeps.queue import Queue
from jaxfer.training.preemption import Notice
from jaxfer.training.progress import Progress

LEFT = 30.0  # seconds in which a killed sweep's worker has left a folder

Watched = Callable[[Group, Progress | None], None]


class Executor(Protocol):
    """Where the cells of a sweep run. Entered once for a sweep or a comparison, which may call `run` several times.

    Attributes:
      slots: how many groups it runs side by side.
    """

    slots: int

    def at_most(self, groups: int) -> None:
        """Before it is entered: no more groups than these will come."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *_: object) -> None: ...

    def run(self, queue: Queue, folder: epath.Path, notice: Notice, watched: Watched) -> None:
        """Takes groups from the queue until it is done, and tells it each cell's outcome as it comes.

        Raises:
          Preempted, Interrupted: the notice asked for it; every cell under way is saved.
        """

    def release(self) -> None:
        """No more cells will come: what is idle may end."""


class Died(NamedTuple):
    """A worker's process has ended; `how`, in brackets after a message."""

    how: str


class Saved(NamedTuple):
    """A worker was asked to stop by somebody else, a platform that takes its machine back, and has saved its group."""


class Worker(Protocol):
    """Runs one group at a time.

    Attributes:
      group: under way.
      compiled: the programs it has.
    """

    group: Group | None
    compiled: frozenset[Any]


# A cell's key and its outcome; a group's progress; None: all of the group's cells have ended; the worker's own end.
Event = tuple[str, Outcome] | Progress | Died | Saved | None


class Workers(abc.ABC):
    """An executor with workers, each of which keeps the programs that it has compiled.

    Attributes:
      workers: one for each slot.
      deaths: at which death of its worker a group fails; at an earlier one it is resumed by another worker.
    """

    workers: Sequence[Any]
    deaths = 1

    @property
    def slots(self) -> int:
        return len(self.workers)

    @abc.abstractmethod
    def send(self, worker: Any, group: Group, folder: epath.Path) -> Any:
        """Has an idle worker begin a group; returns the worker, or its replacement where it had died while idle."""

    @abc.abstractmethod
    def events(self) -> Iterable[tuple[Any, Event]]:
        """What workers have told, in order, after a wait of at most 0.2 seconds."""

    @abc.abstractmethod
    def replaced(self, worker: Any) -> Any:
        """A new worker in the place of one that has died."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Has every worker save its cell, and waits until all have ended."""

    @abc.abstractmethod
    def close(self, seconds: float = 0.0) -> None:
        """Ends every worker; one that runs a cell saves it, in the grace that `seconds` configures."""

    def run(self, queue: Queue, folder: epath.Path, notice: Notice, watched: Watched) -> None:
        try:
            self._run(queue, folder, notice, watched)
        except BaseException:  # here, where SIGTERM still waits for what they save
            self.close(notice.grace)
            raise

    def _run(self, queue: Queue, folder: epath.Path, notice: Notice, watched: Watched) -> None:
        died: Counter[str] = Counter()  # by a group's first key
        # The last word of a group comes after its last outcome.
        while not queue.done or any(worker.group is not None for worker in self.workers):
            for worker in [w for w in self.workers if w.group is None]:
                others = frozenset().union(*(w.compiled for w in self.workers if w is not worker))
                group = queue.next(worker.compiled, others)
                if group is None:
                    continue
                worker = self.send(worker, group, folder)
                worker.group, worker.compiled = group, worker.compiled | frozenset(group[0].programs)
            for worker, told in self.events():
                group = worker.group
                if isinstance(told, (Died, Saved)):
                    if notice:
                        break
                    died[group[0].key] += isinstance(told, Died)
                    if isinstance(told, Saved) or died[group[0].key] < self.deaths:
                        queue.again(group)
                    else:
                        lost = Outcome(status=FAILED, message=f"its process died ({told.how}); out of memory?")
                        for cell in group:
                            if cell.key not in queue.outcomes:
                                queue.ended(cell, lost)
                    self.replaced(worker)
                    told = None
                if told is None:
                    watched(group, None)
                    worker.group = None
                elif isinstance(told, Progress):
                    watched(group, told)
                else:
                    key, outcome = told
                    if key not in queue.outcomes:  # told already, before its worker died
                        queue.ended(next(cell for cell in group if cell.key == key), outcome)
            if notice and not queue.done:
                self.stop()
                raise stopped(queue, notice)


def stopped(queue: Queue, notice: Notice) -> Preempted | Interrupted:
    """The exception that ends a sweep which was asked to stop."""
    return notice.stopped(f"{len(queue.outcomes)} of {queue.total} cells are done")


def files_path(folder: epath.Path) -> str:
    """A local folder from the root, since workers may begin elsewhere; a store's as it is."""
    text = os.fspath(folder)
    return text if "://" in text else os.path.abspath(text)


def left(place: epath.Path) -> None:
    """Waits, `LEFT` seconds at most, until a worker of a sweep that was killed has left a cell's folder."""
    until = time.monotonic() + LEFT
    while place.exists() and time.monotonic() < until:
        with contextlib.suppress(InputError), locked(place):
            return
        time.sleep(0.2)
