"""What runs the cells of a sweep: this process, processes beside it, a Ray cluster, SLURM jobs."""

from __future__ import annotations

import importlib
import os
from typing import Any

from jaxfer.errors import InputError, nearest
from jaxfer.sweeps.executors.base import Executor, Watched
from jaxfer.sweeps.executors.here import Here
from jaxfer.sweeps.executors.processes import Pool

__all__ = ["EXECUTORS", "OPTIONS", "Executor", "Here", "Pool", "Watched", "make"]

# {executor: its options on the command line}
EXECUTORS: dict[str, tuple[str, ...]] = {
    "here": (),
    "processes": ("processes",),
    "ray": ("ray_address", "cpus", "gpus"),
    "slurm": ("cluster", "jobs", "partition", "time", "cpus", "gpus", "mem", "slurm"),
}
# {executor: its package, of the extra of the executor's name}
PACKAGES = {"ray": "ray", "slurm": "submitit"}
OPTIONS = tuple(dict.fromkeys(option for options in EXECUTORS.values() for option in options))


def make(name: str | None = None, **options: Any) -> Executor:
    """An executor, which begins when it is entered.

    Args:
      name: one of `EXECUTORS`; None: `processes` where more than one is asked for, else `here`.
      options: of the command line, by name; None: not given.

    Raises:
      InputError: no such executor, an option of another one or with a bad value, or its package is missing.
    """
    given = {option: value for option, value in options.items() if value is not None}
    if name is None:
        name = "processes" if given.get("processes", 1) != 1 else "here"
        given.setdefault("processes", 1)
    if name not in EXECUTORS:
        raise InputError(f"--executor={name}: no such executor{nearest(name, EXECUTORS)}")
    if name == "here" and given.get("processes", 1) == 1:
        given.pop("processes", None)
    for option in given:
        if option not in EXECUTORS[name]:
            owners = " or ".join(owner for owner, own in EXECUTORS.items() if option in own)
            shown = option.replace("_", "-")
            raise InputError(f"--{shown}: --executor={name} has no such option; leave it out, or use {owners}")
    if name == "here":
        return Here()
    if name == "processes":
        processes = given.get("processes", os.cpu_count() or 1)
        check_processes(processes)
        return Pool(processes)
    try:
        return importlib.import_module(f"jaxfer.sweeps.executors.{name}").make(**given)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != PACKAGES[name]:
            raise
        raise InputError(
            f"--executor={name} needs the package {PACKAGES[name]}; pip install 'jaxfer[{name}]'"
        ) from None


def check_processes(processes: int) -> None:
    """`InputError` for a number of processes that can't run side by side here."""
    if type(processes) is not int or processes < 1:
        raise InputError(f"--processes: expected at least 1, found {processes}")
    if processes > 1:
        import jax

        if jax.default_backend() == "tpu":
            raise InputError("--processes: a TPU belongs to one process; use 1")
    if processes > 4 * (os.cpu_count() or 1):
        raise InputError(
            f"--processes: {processes} on {os.cpu_count()} cores would only wait for each other; use fewer"
        )
