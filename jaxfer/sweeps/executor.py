"""Runs the missing cells, in this process or in several; a failed cell does not stop the others.

A cell that fails keeps its traceback (error.txt) and one that diverges its reason (diverged.json); the others go on.
What is finished or diverged is not run again, what failed is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxfer import files
from jaxfer.data.prepare import opened_once
from jaxfer.errors import InputError, Interrupted, NonFiniteLoss, Preempted
from jaxfer.runs import records
from jaxfer.step import evaluated
from jaxfer.sweeps.cells import FOLDER, Job
from jaxfer.training import compilation_cache
from jaxfer.training.blocks import Grid
from jaxfer.training.loop import run_together
from jaxfer.training.preemption import Notice, grace, preemption_notice
from jaxfer.training.programs import compiles

DONE, FAILED, DIVERGED = "done", "failed", "diverged"
MEMBERS = 64  # cells of a group at most: its files are open at once, and an end of its process ends all of them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a cell ended.

    Attributes:
      status: DONE, FAILED or DIVERGED.
      result: its result.json, where it is done.
      message: why it is not, in one line.
      compiles: training programs compiled for it in this attempt.
    """

    status: str
    result: Mapping[str, Any] | None = None
    message: str = ""
    compiles: int = 0


Told = Callable[[Job, Outcome], None]


def execute(
    jobs: Sequence[Job],
    folder: epath.Path,
    *,
    processes: int = 1,
    pool: Pool | None = None,
    told: Told,
    trained: bool = False,
) -> dict[str, Outcome]:
    """Runs every cell that is not finished under `folder`.

    Args:
      jobs: each after the cell it starts from.
      folder: of the sweep.
      processes: 1 runs here, one cell after another; more run side by side, each compiling for itself.
      pool: processes that are there already, used in place of new ones; after an error they have ended.
      told: of every outcome, as it comes.
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
                _attempt(group, folder, queue.ended)
                if notice and not queue.done:
                    raise _stopped(queue, notice)
        else:
            with contextlib.nullcontext(pool) if pool is not None else Pool(min(processes, len(cells))) as pool:
                try:
                    _side_by_side(queue, folder, pool, notice)
                except BaseException:  # here, where SIGTERM still waits for what they save
                    pool.close(notice.grace)
                    raise
    return queue.outcomes


Group = tuple[Job, ...]


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


def _attempt(group: Group, folder: epath.Path, told: Callable[[Job, Outcome], None]) -> None:
    """Runs a group's cells in this process, which opens their data once; raises SIGTERM and an interrupt alone."""
    counted = compiles()
    stopped: list[Preempted | Interrupted] = []

    def tell(cell: Job, ended: Any) -> None:
        nonlocal counted
        if isinstance(ended, (Preempted, Interrupted)):
            stopped.append(ended)
            return
        outcome = dataclasses.replace(_outcome(ended, folder / FOLDER / cell.key), compiles=compiles() - counted)
        counted = compiles()
        told(cell, outcome)

    runs: list[tuple[ConfigDict, epath.Path] | None] = []
    for cell in group:
        place = folder / FOLDER / cell.key
        try:
            known = _diverged(place)
        except InputError as error:
            known = error
        runs.append((cell.config, place) if known is None else None)
        if known is not None:
            tell(cell, known)
    grid = Grid.of([cell.config.seed for cell in group])
    with opened_once():
        run_together(runs, grid, quiet=True, told=lambda member, ended: tell(group[member], ended))
    if stopped:
        raise stopped[0]


def _outcome(ended: Any, place: epath.Path) -> Outcome:
    """Of a result.json's contents, of an error, or of why a cell diverged before."""
    if isinstance(ended, str):
        return Outcome(status=DIVERGED, message=ended)
    if isinstance(ended, NonFiniteLoss):
        files.write_json(place / "diverged.json", {"message": str(ended)})
        return Outcome(status=DIVERGED, message=str(ended))
    if isinstance(ended, BaseException):  # the other cells go on after any error
        with contextlib.suppress(OSError):  # a full disk has no room for it
            place.mkdir(parents=True, exist_ok=True)
            files.write_text(place / "error.txt", "".join(traceback.format_exception(ended)))
        line = " ".join(str(ended).split())[:200] or "no message"
        return Outcome(status=FAILED, message=f"{type(ended).__name__}: {line}")
    (place / "error.txt").unlink(missing_ok=True)
    return Outcome(status=DONE, result=ended)


def _diverged(place: epath.Path) -> str | None:
    """Why this cell diverged before; None where it has not. `InputError` where its diverged.json is damaged."""
    if not (place / "diverged.json").exists():
        return None
    return files.read_json(place / "diverged.json", records.Diverged)["message"]


def _stopped(queue: _Queue, notice: Notice) -> Preempted | Interrupted:
    return notice.stopped(f"{len(queue.outcomes)} of {queue.total} cells are done")


@dataclasses.dataclass(eq=False)
class _Worker:
    """A process that runs the groups of cells it is sent, one at a time."""

    process: Any
    pipe: multiprocessing.connection.Connection
    group: Group | None = None
    compiled: frozenset[Any] = frozenset()
    used: bool = False

    def sent(self, group: Group, folder: epath.Path) -> bool:
        """Sends the worker a group; False where its process has ended."""
        self.used = True
        try:
            self.pipe.send((str(folder), [(cell.key, cell.config.to_dict()) for cell in group]))
        except OSError:
            return False
        return True


class Pool:
    """Processes that run cells. They begin to import at once, and keep the programs that they have compiled.

    Attributes:
      workers: as many as were asked for; one that died is replaced.
    """

    def __init__(self, processes: int):
        self._context = multiprocessing.get_context("spawn")  # a fork of a process with JAX's threads hangs
        if processes:
            os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / processes:.2f}")  # a GPU is shared
        self.workers: list[_Worker] = []
        try:
            for _ in range(processes):
                self.workers.append(self._start())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, attempts: int = 3) -> _Worker:
        parent_end, child_end = self._context.Pipe()
        # Not a daemon: daemons can't start loader processes. `_serve` ends it with its parent.
        process = self._context.Process(target=_serve, args=(child_end, compilation_cache.in_use()))
        try:
            with _without_interrupts():
                process.start()
        except BrokenPipeError:  # it was killed before it had read its arguments
            if attempts == 1:
                raise
            return self._start(attempts - 1)
        finally:
            child_end.close()
        return _Worker(process, parent_end)

    def replaced(self, worker: _Worker) -> _Worker:
        """A new worker in the place of one whose process has ended."""
        fresh = self.workers[self.workers.index(worker)] = self._start()
        return fresh

    def release(self) -> None:
        """Lets processes that have nothing to run end, which takes them a second; `close` waits for them."""
        for worker in self.workers:
            worker.pipe.close()

    def close(self, seconds: float = 0.0) -> None:
        """Ends every process; one that runs a cell saves it, for which it has the grace that `seconds` configures."""
        self.release()
        for worker in self.workers:
            # An interrupt: the worker saves its cell. One that never had any may still be importing.
            if worker.group is not None or not worker.used:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join(timeout=10 if worker.group is None else grace(seconds))
            worker.process.kill()
        self.workers = []


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process that starts in here inherits that Ctrl-C waits: it would end its imports with a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _side_by_side(queue: _Queue, folder: epath.Path, pool: Pool, notice: Notice) -> None:
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
                worker.group = None
            else:
                key, outcome = told
                queue.ended(next(cell for cell in worker.group if cell.key == key), outcome)
        if notice and not queue.done:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.process.join()
            raise _stopped(queue, notice)


@dataclasses.dataclass(frozen=True)
class _Sent:
    """The part of a cell that is sent to another process."""

    key: str
    config: ConfigDict


def _serve(pipe: multiprocessing.connection.Connection, cache: str | None) -> None:
    """A worker's main loop: ends with its pipe, at SIGTERM once its cell is saved, at once if its parent is gone."""

    def orphaned() -> None:
        multiprocessing.parent_process().join()
        os._exit(Preempted.exit_code)

    threading.Thread(target=orphaned, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's Ctrl-C reaches the whole group; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # it was held back meanwhile
    compilation_cache.enable(cache and Path(cache))
    with contextlib.suppress(EOFError, OSError):
        while True:
            folder, cells = pipe.recv()
            group = tuple(_Sent(key, ConfigDict(config)) for key, config in cells)
            _attempt(group, epath.Path(folder), lambda cell, outcome: pipe.send((cell.key, outcome)))
            pipe.send(None)  # all of them have ended
