"""ASHA: successive halving that waits for no rung to end, and gives the same table whatever is faster.

Li et al., 2020, arXiv:1810.05934, algorithm 2: once i trials of a rung have ended, the best i / eta of them go on, if
they have not. There, trials are read as they end, so which ones go on depends on the machines. Here they are read in
the order in which they entered the rung: one that ends early is read when all before it have been. So it follows from
the scores alone, with any executor and after any kill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.sweeps.attempts import Outcome
from jaxfer.sweeps.cells import FOLDER, Job
from jaxfer.sweeps.samplers import halving
from jaxfer.sweeps.samplers.halving import Halving, carry, scored


class Asha(Halving):
    """A sampler of random trials in one bracket; the arguments are those of `Halving`."""

    _entered: list[list[tuple[int, Job]]] | None = None  # (number, job) of each rung, in order

    @property
    def options(self) -> Mapping[str, Any]:
        return {**super().options, "sampler": "asha"}

    def order(self, job: Job) -> tuple[int, int]:
        """By rung, then by trial."""
        return self._places[job.key]

    def more(self, outcomes: Mapping[str, Outcome]) -> Sequence[Job]:
        (bracket,) = self._brackets
        rungs, begun = len(bracket.steps), []
        if self._entered is None:
            self._entered, self._read, self._places = [[] for _ in range(rungs)], [0] * rungs, {}
            begun += [self._enter(number, 0) for number in range(bracket.sizes[0])]
        for rung, jobs in enumerate(self._entered[:-1]):
            while self._read[rung] < len(jobs) and jobs[self._read[rung]][1].key in outcomes:
                self._read[rung] += 1
                gone = {number for number, _ in self._entered[rung + 1]}
                best = scored(jobs[: self._read[rung]], outcomes)[: self._read[rung] // self._eta]
                begun += [self._enter(number, rung + 1) for number in best if number not in gone]
        waits = any(read < len(jobs) for read, jobs in zip(self._read, self._entered[:-1], strict=False))
        missing = (size - len(jobs) for size, jobs in zip(bracket.sizes, self._entered, strict=True))
        self.left = sum(max(0, count) for count in missing) if waits else 0
        return list({job.key: job for job in begun}.values())

    def _enter(self, number: int, rung: int) -> Job:
        job = self._job(number, self._brackets[0].steps[rung])
        if rung:
            carry(self._folder / FOLDER, dict(self._entered[rung - 1])[number].key, job.key)
        self._entered[rung].append((number, job))
        self._places.setdefault(job.key, (rung, number))
        return job


def make(**options: Any) -> Asha:
    """From the command line's options."""
    return halving.make(**options, kind=Asha)
