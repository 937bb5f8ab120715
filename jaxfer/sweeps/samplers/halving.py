"""Successive halving and Hyperband: many trials of few steps, of which the best are extended, and so on.

Jamieson and Talwalkar, 2016, arXiv:1502.07943, algorithm 1; Li et al., 2018, arXiv:1603.06560, algorithm 1. A rung has
`eta` times the steps of the one before and the best 1 / `eta` of its trials by val. A trial that goes on is extended in
a copy of its folder, so that its parameters are those of a run that was as long from the start; that holds for
schedules without an end alone. A rung begins when the one before has ended, and nothing is drawn by time: the table
depends on neither the executor nor on kills.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from jaxfer.errors import InputError
from jaxfer.optim.schedules import SCHEDULES
from jaxfer.runs.folder import LOCK, remote
from jaxfer.sweeps import cells
from jaxfer.sweeps.attempts import DONE, Outcome
from jaxfer.sweeps.cells import FOLDER, Cell, Job
from jaxfer.sweeps.samplers.base import Sampler
from jaxfer.sweeps.samplers.random import Drawn
from jaxfer.sweeps.samplers.space import trial_cell


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Trials that compete: `sizes[k]` of them are at `steps[k]` steps, both by rung."""

    sizes: tuple[int, ...]
    steps: tuple[int, ...]


def halving(trials: int, total: int, eta: int, least: int) -> Bracket:
    """One bracket of so many trials; the last rung has `total` steps and the first at least `least`."""
    rungs = 0
    while eta ** (rungs + 1) <= trials and total // eta ** (rungs + 1) >= least:
        rungs += 1
    steps = tuple(total // eta ** (rungs - k) for k in range(rungs + 1))
    return Bracket(tuple(trials // eta**k for k in range(rungs + 1)), steps)


def hyperband(total: int, eta: int, least: int) -> tuple[Bracket, ...]:
    """Brackets from the one with the most trials to that of trials of `total` steps alone, of about the same cost."""
    most = 0
    while total // eta ** (most + 1) >= least:
        most += 1
    counts = {s: -(-(most + 1) * eta**s // (s + 1)) for s in range(most, -1, -1)}  # rounded up
    return tuple(
        Bracket(tuple(n // eta**k for k in range(s + 1)), tuple(total // eta ** (s - k) for k in range(s + 1)))
        for s, n in counts.items()
    )


class Halving(Sampler):
    """A sampler of random trials in brackets.

    Args:
      trials: of the only bracket; None: Hyperband's brackets.
      seed: of the draws.
      eta: by how much a rung is longer than the one before.
      least: steps of the first rung; None: of halving as `trials` leads to, of Hyperband eta^3 times fewer than all.
    """

    def __init__(self, trials: int | None, *, seed: int = 0, eta: int = 3, least: int | None = None):
        self._trials, self._seed, self._eta, self._least = trials, seed, eta, least
        self._brackets: tuple[Bracket, ...] = ()
        self._rungs: list[list[dict[int, Job]]] = []  # of each rung that has begun: by bracket {number: job}
        self.left = 0

    @property
    def options(self) -> Mapping[str, Any]:
        own = {"sampler": "hyperband"} if self._trials is None else {"sampler": "halving", "trials": self._trials}
        given = {"sampler_seed": self._seed, "eta": self._eta, "least": self._least}
        return own | {name: value for name, value in given.items() if value is not None}

    def first(self, spec: str, overrides: Mapping[str, Any]) -> tuple[Cell, ...]:
        self._spec, self._overrides = spec, overrides
        prepared = cells.preparations(spec, overrides)
        *_, example = cells.make_jobs(spec, (*prepared, trial_cell(spec, 0, Drawn(self._seed, 0), overrides)))
        if example.split != "val":
            raise InputError("config.test: --sampler selects by val; leave it false, and test the run that is chosen")
        total = example.config.steps
        if self._trials is None:
            self._brackets = hyperband(total, self._eta, self._least or max(1, total // self._eta**3))
        else:
            self._brackets = (halving(self._trials, total, self._eta, self._least or 1),)
        self.left = sum(sum(bracket.sizes) for bracket in self._brackets)
        return prepared

    def begin(self, jobs: Sequence[Job], folder: epath.Path) -> None:
        if remote(folder):
            raise InputError(f"{folder}: runs can't be copied in a store; use a work folder on a file system")
        self._before, self._folder = {job.cell.name: job for job in jobs}, folder

    def more(self, outcomes: Mapping[str, Outcome]) -> Sequence[Job]:
        rung, begun = len(self._rungs), []
        if rung == max(len(bracket.sizes) for bracket in self._brackets):
            return ()
        first = 0
        for at, bracket in enumerate(self._brackets):
            numbers = range(first, first + bracket.sizes[0])
            first += bracket.sizes[0]
            if rung:
                numbers = self._best(at, rung, outcomes) if rung < len(bracket.sizes) else ()
            begun.append({number: self._job(number, bracket.steps[rung]) for number in numbers})
        if rung:
            for before, now in zip(self._rungs[-1], begun, strict=True):
                for number, job in now.items():
                    carry(self._folder / FOLDER, before[number].key, job.key)
        self._rungs.append(begun)
        later = [size for bracket in self._brackets for size in bracket.sizes[rung + 1 :]]
        self.left = sum(later)
        return list({job.key: job for now in begun for job in now.values()}.values())

    def _best(self, bracket: int, rung: int, outcomes: Mapping[str, Outcome]) -> list[int]:
        """Numbers of the trials that go on to the rung."""
        best = scored(self._rungs[-1][bracket].items(), outcomes)
        return sorted(best[: self._brackets[bracket].sizes[rung]])

    def _job(self, number: int, steps: int) -> Job:
        drawn = trial_cell(self._spec, number, Drawn(self._seed, number), {})
        if "steps" in drawn.overrides:
            raise InputError(f"{self._spec}: space(trial) draws steps, which the rungs set; leave it out")
        cell = trial_cell(self._spec, number, Drawn(self._seed, number), {**self._overrides, "steps": steps})
        name, group = f"{cell.name} at {steps} steps", f"{cell.group},steps={steps}"
        job = cells.checked(self._spec, dataclasses.replace(cell, name=name, group=group), self._before)
        if job.config.stages:  # a recipe is such stages
            raise InputError(f"cell {name!r}: --sampler extends runs of one stage; leave out config.stages and recipe")
        if not SCHEDULES[job.config.schedule].endless:
            known = ", ".join(name for name, schedule in SCHEDULES.items() if schedule.endless)
            raise InputError(
                f"cell {name!r}: --sampler extends runs, and schedule={job.config.schedule} is another one for each "
                f"number of steps; expected one without an end: {known}"
            )
        return job


def scored(jobs: Iterable[tuple[int, Job]], outcomes: Mapping[str, Outcome]) -> list[int]:
    """Numbers of these trials, the best first, the earlier of equals; without what diverged or failed."""
    found = []
    for number, job in jobs:
        if outcomes[job.key].status == DONE:
            score = outcomes[job.key].result["metrics"]["val"][job.metric]
            found.append((-score if job.maximize else score, number))
    return [number for _, number in sorted(found)]


def carry(folder: epath.Path, before: str, after: str) -> None:
    """A copy of a finished run under the address of the longer one, which goes on from it; whole or not there."""
    target, made = Path(os.fspath(folder / after)), Path(os.fspath(folder / f".{after}"))
    if target.exists():  # begun by an earlier attempt
        return
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(os.fspath(folder / before), made, ignore=shutil.ignore_patterns(LOCK))
    made.replace(target)


def make(
    *,
    trials: int | None = None,
    sampler_seed: int = 0,
    eta: int = 3,
    least: int | None = None,
    kind: type[Halving] = Halving,
) -> Halving:
    """From the command line's options."""
    for name, value, low in (("eta", eta, 2), ("least", 1 if least is None else least, 1)):
        if type(value) is not int or value < low:
            raise InputError(f"--{name}: expected a whole number from {low} on, found {value}")
    return kind(trials, seed=sampler_seed, eta=eta, least=least)
