"""The runs of the folder, surveyed once for all who ask meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from etils import epath

from jaxfer.errors import InputError
from jaxfer.runs.folder import in_use
from jaxfer.runs.survey import UNFINISHED, Run, survey
from jaxfer.ui import places

RUNNING, WAITING = "running", "waiting"
SHARED = 2.0  # a survey is shown for as many times the seconds that it took


class Listed:
    """The runs below a folder; however many ask, the folder is read a third of the time at most."""

    def __init__(self, root: Path):
        self._root, self._lock = root, threading.Lock()
        self._runs: Sequence[Run] = ()
        self._shown: dict[Hashable, str] = {}
        self._until = 0.0

    def runs(self) -> Sequence[Run]:
        """Every run, by name.

        Raises:
          InputError: as `below` does.
        """
        with self._lock:
            return self._surveyed()

    def shown(self, key: Hashable, make: Callable[[Sequence[Run]], str]) -> str:
        """What `make` makes of the runs, once for each key until they are surveyed again."""
        with self._lock:
            runs = self._surveyed()
            if key not in self._shown:
                self._shown[key] = make(runs)
            return self._shown[key]

    def _surveyed(self) -> Sequence[Run]:
        begun = time.monotonic()
        if begun >= self._until:
            self._shown.clear()
            self._runs = below(self._root)
            now = time.monotonic()
            self._until = now + SHARED * (now - begun)
        return self._runs

    def at(self, folder: Path) -> Run:
        """The run in a folder.

        Raises:
          InputError: there is none any more.
        """
        wanted = os.path.realpath(folder)  # of two names for one folder the survey has either
        for run in self.runs():
            if os.path.realpath(run.folder) == wanted:
                return run
        raise InputError(f"no run at {folder}: expected a folder that `jaxfer run` wrote")


def below(root: Path) -> Sequence[Run]:
    """The runs in a folder or below it, by name; none where there are other things to show.

    Raises:
      InputError: no such folder, or nothing to show there.
    """
    try:
        return survey(root, outside=False)
    except InputError:
        if next(places.collections(root), None) is None:
            raise
        return ()


def state(run: Run) -> str:
    """The run's state; of an unfinished one whose folder a process of this machine holds, `running`."""
    return RUNNING if run.state == UNFINISHED and in_use(epath.Path(run.folder)) else run.state
