"""Runs cells in this process, one group after another."""

from __future__ import annotations

import functools

from etils import epath

from jaxfer.sweeps.attempts import attempt
from jaxfer.sweeps.executors.base import Watched, stopped
from jaxfer.sweeps.queue import Queue
from jaxfer.training.preemption import Notice


class Here:
    """No processes but this one."""

    slots = 1

    def at_most(self, groups: int) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, queue: Queue, folder: epath.Path, notice: Notice, watched: Watched) -> None:
        while group := queue.next(frozenset()):
            attempt(group, folder, queue.ended, functools.partial(watched, group))
            watched(group, None)
            if notice and not queue.done:
                raise stopped(queue, notice)

    def release(self) -> None:
        pass
