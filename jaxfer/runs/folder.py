"""A run on disk: who owns a folder, and files that a kill can't tear.

config.json · ledger.json · params.txt · metrics.jsonl · checkpoints/ · checkpoints_frozen/ · result.json
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxfer import config
from jaxfer.config.experiment import Experiment
from jaxfer.errors import InputError
from jaxfer.files import FIX, read_json, remote
from jaxfer.optim.schedules import SCHEDULES
from jaxfer.parallel import cluster
from jaxfer.runs import records


def read_result(folder: epath.Path) -> dict[str, Any]:
    """The result.json of a finished run."""
    return read_json(folder / "result.json", records.Result)


def stored_config(folder: epath.Path) -> ConfigDict:
    """The config.json of a run; `config.resolve` checks its fields."""
    path = folder / "config.json"
    return config.stored(path, fields=records.StoredConfig, fix=FIX, damaged="expected a JSON file of a run")


def holds_run(folder: epath.Path) -> bool:
    """Whether a folder's config.json is a run's; other people's checkpoints have one too."""
    path = folder / "config.json"
    return path.exists() and "stages" in read_json(path)


LOCK = ".lock"


def stored_experiment(folder: epath.Path) -> Experiment:
    """The experiment that a folder belongs to."""
    stored = stored_config(folder)
    try:
        return config.resolve(stored)
    except InputError as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from None


def check_owner(folder: epath.Path, experiment: Experiment) -> None:
    """Raises `InputError` with the differing fields where the folder holds a run of another experiment.

    An unfinished run keeps its length unless its schedule knows none: another length would be another schedule midway.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder to run in, found the file {folder}; use another --workdir")
    if not (folder / "config.json").exists():
        return
    stored = stored_experiment(folder)
    old, new = stored.identity(), experiment.identity()
    differing = [
        f"{name}: {old.get(name, 'absent')!r} there, {new.get(name, 'absent')!r} here"
        for name in sorted({*old, *new})
        if old.get(name, "absent") != new.get(name, "absent")
    ]
    if differing:
        shown = "; ".join(differing[:8]) + (f"; and {len(differing) - 8} more" if len(differing) > 8 else "")
        raise InputError(f"{folder} holds a run of another config ({shown}); use another --workdir")
    (_, before), (_, now) = stored.stages[-1], experiment.stages[-1]
    if before.steps != now.steps and not SCHEDULES[now.schedule].endless and not (folder / "result.json").exists():
        raise InputError(
            f"{folder} holds an unfinished run whose last stage has {before.steps} steps, here {now.steps}: that would "
            f"change its {now.schedule} schedule midway; finish it first, or use another --workdir"
        )


@contextlib.contextmanager
def locked(folder: epath.Path) -> Iterator[None]:
    """Locks the folder against a second run; a killed process's lock is released with it.

    A store has no locks: nothing keeps a second run out of a folder there.
    """
    if not cluster.leader():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    if remote(folder):
        yield
        return
    import fcntl

    with open(os.fspath(folder / LOCK), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder} is in use by another process; wait for it or use another --workdir") from None
        yield


def in_use(folder: epath.Path) -> bool:
    """Whether a process of this machine holds the folder's lock, found without touching it; in a store: True.

    Linux lists locks by inode. To try the lock would be shorter, but could turn away a run that starts meanwhile.
    """
    if remote(folder):
        return True
    with contextlib.suppress(OSError):
        inode = os.stat(os.fspath(folder / LOCK)).st_ino
        with open("/proc/locks") as locks:
            return any(line.split()[-3].endswith(f":{inode}") for line in locks if "FLOCK" in line)
    return False


def check_present(folder: epath.Path) -> None:
    """Raises `InputError` where a `locked` folder has been removed or renamed since: the cause of any other error."""
    if cluster.leader() and not remote(folder) and not (folder / LOCK).exists():
        raise InputError(
            f"{folder} was removed or renamed during the run; put it back and run the same command again, "
            "or start over with another --workdir"
        )
