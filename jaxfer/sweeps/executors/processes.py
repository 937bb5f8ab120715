"""Processes of this machine that run groups of cells, and tell how they get on through pipes."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxfer import files
from jaxfer.errors import Preempted
from jaxfer.sweeps.attempts import Group, attempt
from jaxfer.sweeps.executors.base import Died, Event, Workers
from jaxfer.training import compilation_cache
from jaxfer.training.preemption import grace


@dataclasses.dataclass(eq=False)
class Worker:
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


class Pool(Workers):
    """Processes that run cells. They begin to import once it is entered.

    Attributes:
      workers: as many as were asked for; one that died is replaced.
    """

    workers: list[Worker]

    def __init__(self, processes: int):
        self._processes, self.workers = processes, []
        self._context = multiprocessing.get_context("spawn")  # a fork of a process with JAX's threads hangs

    def at_most(self, groups: int) -> None:
        self._processes = min(self._processes, groups)

    def __enter__(self) -> Pool:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / self._processes:.2f}")  # a GPU is shared
        try:
            for _ in range(self._processes):
                self.workers.append(self._start())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, attempts: int = 3) -> Worker:
        parent_end, child_end = self._context.Pipe()
        # Not a daemon: daemons can't start loader processes. `_serve` ends it with its parent.
        process = self._context.Process(target=_serve, args=(child_end, compilation_cache.in_use()))
        try:
            with without_interrupts():
                process.start()
        except BrokenPipeError:  # it was killed before it had read its arguments
            if attempts == 1:
                raise
            return self._start(attempts - 1)
        finally:
            child_end.close()
        return Worker(process, parent_end)

    def send(self, worker: Worker, group: Group, folder: epath.Path) -> Worker:
        if not worker.sent(group, folder):  # killed while idle
            worker.process.join()
            worker = self.replaced(worker)
            worker.sent(group, folder)
        return worker

    def events(self) -> Iterator[tuple[Worker, Event]]:
        for pipe in multiprocessing.connection.wait([w.pipe for w in self.workers if w.group is not None], timeout=0.2):
            worker = next(w for w in self.workers if w.pipe is pipe)
            try:
                told = pipe.recv()
            except (EOFError, OSError):  # OSError: it died before it had read its cells
                worker.process.join()
                told = Died(f"exit code {worker.process.exitcode}")
            yield worker, told

    def stop(self) -> None:
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()

    def replaced(self, worker: Worker) -> Worker:
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
def without_interrupts() -> Iterator[None]:
    """A process that starts in here inherits that Ctrl-C waits: it would end its imports with a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclasses.dataclass(frozen=True)
class Sent:
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
            group = tuple(Sent(key, ConfigDict(config)) for key, config in cells)
            attempt(group, files.opened(folder), lambda cell, outcome: pipe.send((cell.key, outcome)), pipe.send)
            pipe.send(None)  # all of them have ended
