"""Settings that are drawn while a comparison runs: an Optuna study for each arm at each number of labels.

A study is told the mean of a trial's seeds on val, which is what the selection goes by. Once a run has failed nothing
more is drawn: the same command again draws what a comparison without the failure would have.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from etils import epath

from jaxfer.comparison.arms import Arm
from jaxfer.comparison.protocol import Design
from jaxfer.comparison.samplers import Sampler, Setting, draw, ranges
from jaxfer.sweeps import samplers
from jaxfer.sweeps.cells import Job
from jaxfer.sweeps.executor import FAILED, Outcome
from jaxfer.sweeps.samplers.space import Trial

if TYPE_CHECKING:  # Optuna is slow to import, and may be missing
    from jaxfer.sweeps.samplers.study import Study


class Search(samplers.Sampler):
    """Draws the trials that a design lacks, as `run_cells` asks for them; none where all settings are known.

    Args:
      design: what is known beforehand.
      sampler: that of the design.
    """

    def __init__(self, design: Design, sampler: Sampler):
        self._design, self._sampler = design, sampler
        self._settings: dict[tuple[int, str, int], Setting] = {}
        self._drawn: dict[tuple[int, str, int, int], Job] = {}
        self._studies: dict[tuple[int, str], Study] = {}
        for labels in design.labels:
            for arm in design.arms:
                if len(arm.trials) < design.config.trials:
                    self._studies[labels, arm.name] = self._study(labels, arm)

    @property
    def left(self) -> int:
        """Runs of the trials that are still to be drawn."""
        return sum(study.left for study in self._studies.values()) * self._design.config.seeds

    def open(self, folder: epath.Path) -> None:
        """The comparison's folder is there, and claimed."""
        if not self._studies:
            return
        design, storage = self._design, self._sampler.asking.opened(folder)
        for (labels, name), study in self._studies.items():
            (arm,) = (arm for arm in design.arms if arm.name == name)
            default = design.cells(labels, name, 0)
            # All that its draws depend on: in the folder of a comparison that was changed, or a shared database.
            parts = [name, self._sampler.record, design.config.trials, ranges(arm.spaces), [job.key for job in default]]
            key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
            study.begin(storage, key, maximize=default[0].maximize)
            study.draw()  # the default, which is among the first runs

    def more(self, outcomes: Mapping[str, Outcome]) -> Sequence[Job]:
        """The runs of every arm's next trials."""
        if any(outcome.status == FAILED for outcome in outcomes.values()):
            return ()
        return [job for study in self._studies.values() for job in study.more(outcomes)]

    def complete(self) -> Design:
        """The design with all trials; every run has ended."""
        if not self._drawn:
            return self._design
        tuning, settings = {**self._design.tuning, **self._drawn}, {**self._design.settings, **self._settings}
        in_order = {member: tuning[member] for member in self._design.members()}
        return dataclasses.replace(self._design, tuning=in_order, settings=settings)

    def _study(self, labels: int, arm: Arm) -> Study:
        def jobs(number: int, trial: Trial) -> list[Job]:
            setting = draw(trial, arm.spaces)
            if number == 0:
                return self._design.cells(labels, arm.name, 0)
            self._settings[labels, arm.name, number] = setting
            made = {
                (labels, arm.name, number, seed): self._design.job(labels, arm, number, seed, setting)
                for seed in range(self._design.config.seeds)
            }
            self._drawn |= made
            return list(made.values())

        return self._sampler.study(self._design.config.trials, jobs, arm.trials[0])
