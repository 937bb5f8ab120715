"""The function that a job of a batch system runs: one group of cells, told to the sweep through a file.

The sweep's folder `jobs` is the only connection. A job appends what it tells to a file of its own there. Once the
command that submitted it no longer owns the folder, the job saves its cells and ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from jaxfer.errors import Interrupted, Preempted
from jaxfer.sweeps.attempts import attempt
from jaxfer.sweeps.cells import FOLDER
from jaxfer.sweeps.executors.base import Died, Event, Saved, left
from jaxfer.sweeps.executors.processes import Sent
from jaxfer.training import compilation_cache

OWNER = "owner"  # the file with the token of the command whose jobs may run
LOOK = 1.0  # seconds between two looks at it


class There(NamedTuple):
    """What a job's process takes from the one that submitted it.

    Attributes:
      token: the owner's.
      folder: the current one, for relative paths in configs.
      cache: of compiled programs, or None.
    """

    token: str
    folder: str
    cache: str | None


def serve(told: str, folder: str, cells: Sequence[tuple[str, Mapping[str, Any]]], there: There | None) -> None:
    """Runs a group and tells each outcome; last None, `Saved`, or `Died` where it was stopped before any progress.

    Args:
      told: the file to append to.
      folder: of the sweep.
      cells: (key, config) of each.
      there: None: in the very process that submitted it.
    """
    place = epath.Path(folder)
    group = tuple(Sent(key, ConfigDict(config)) for key, config in cells)
    before, ended = _checkpoints(place, group), threading.Event()

    def tell(event: Event) -> None:
        with open(told, "ab") as file:
            file.write(pickle.dumps(event))

    try:
        if there is not None:
            _begin(Path(told).parent / OWNER, there, ended)
        for cell in group:
            left(place / FOLDER / cell.key)
        attempt(group, place, lambda cell, outcome: tell((cell.key, outcome)), tell)
        last = None
    except (Preempted, Interrupted):
        last = Saved() if _checkpoints(place, group) != before else Died("stopped before it had anything to save")
    finally:
        ended.set()
    tell(last)


def events(told: Path, at: int) -> tuple[list[Event], int]:
    """What a job has told since byte `at` of its file, and the byte to go on from."""
    found = []
    with contextlib.suppress(OSError), open(told, "rb") as file:
        file.seek(at)
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # the last one may not have arrived whole
            while True:
                found.append(pickle.load(file))
                at = file.tell()
    return found, at


def _begin(owner: Path, there: There, ended: threading.Event) -> None:
    """Makes this process a job's: SIGTERM ends it with `Preempted` whenever no run handles it."""

    def leave(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Preempted("SIGTERM")

    def obey() -> None:
        while not ended.wait(LOOK):
            with contextlib.suppress(OSError):
                if owner.read_text() != there.token:
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGUSR2, lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # submitit's own warning
    with contextlib.suppress(OSError):
        os.chdir(there.folder)
    compilation_cache.enable(there.cache and Path(there.cache))
    if owner.read_text() != there.token:
        raise Preempted("another command owns the folder")
    threading.Thread(target=obey, daemon=True).start()


def _checkpoints(place: epath.Path, group: Sequence[Sent]) -> set[str]:
    """What shows a group's progress."""

    def found(cell: Sent) -> Iterator[epath.Path]:
        yield from (place / FOLDER / cell.key).glob("checkpoints/*")
        yield from (place / FOLDER / cell.key).glob("result.json")

    return {str(path) for cell in group for path in found(cell)}
