"""A sweep whose trials Optuna chooses: one study (`study.py`), each trial a cell drawn by the config's `space`."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from etils import epath

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.sweeps import cells
from jaxfer.sweeps.attempts import Outcome
from jaxfer.sweeps.cells import Cell, Job
from jaxfer.sweeps.samplers.base import Sampler
from jaxfer.sweeps.samplers.random import Drawn
from jaxfer.sweeps.samplers.space import Trial, trial_cell
from jaxfer.sweeps.samplers.study import Asking, Study

IMPORTANCE = "importance.csv"


class Optuna(Sampler):
    """A sweep's trials from a study.

    Args:
      trials: in all.
      asking: how the study is asked for them.
    """

    def __init__(self, trials: int, asking: Asking):
        self._asking, self._trials, self._study = asking, trials, Study(asking, trials, self._jobs)

    @property
    def left(self) -> int:
        return self._study.left

    @property
    def options(self) -> Mapping[str, Any]:
        asked = {"sampler_seed": self._asking.seed, "algorithm": self._asking.algorithm, "ask": self._asking.ask}
        return {"sampler": "optuna", "trials": self._trials} | asked

    def first(self, spec: str, overrides: Mapping[str, Any]) -> tuple[Cell, ...]:
        self._spec, self._overrides = spec, overrides
        prepared = cells.preparations(spec, overrides)
        *_, example = cells.make_jobs(spec, (*prepared, trial_cell(spec, 0, Drawn(0, 0), overrides)))
        if example.split != "val":
            raise InputError("config.test: --sampler=optuna selects by what it is told, which is val; leave it false")
        self._example = example
        return prepared

    def begin(self, jobs: Sequence[Job], folder: epath.Path) -> None:
        self._before, self._folder = {job.cell.name: job for job in jobs}, folder
        # Of this config, data and code alone; in a database shared with others, too.
        self._study.begin(self._asking.opened(folder), self._example.key, maximize=self._example.maximize)

    def more(self, outcomes: Mapping[str, Outcome]) -> Sequence[Job]:
        new: dict[str, Job] = {}
        for job in self._study.more(outcomes):
            if job.key not in outcomes:
                new.setdefault(job.key, job)
        if not new:
            self._write_importance()
        return list(new.values())

    def _jobs(self, number: int, trial: Trial) -> tuple[Job]:
        job = cells.checked(self._spec, trial_cell(self._spec, number, trial, self._overrides), self._before)
        self._before[job.cell.name] = job
        return (job,)

    def _write_importance(self) -> None:
        """The share of each field in the metric's variance (fANOVA), of the fields that every trial drew."""
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = optuna.importance.get_param_importances(self._study.study, evaluator=evaluator)
        except (RuntimeError, ValueError):  # fewer than two trials, or all alike
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("field", "importance"))
        writer.writerows((field, f"{share:.6f}") for field, share in found.items())
        files.write_text(self._folder / IMPORTANCE, text.getvalue())


def make(*, trials: int, sampler_seed: int = 0, **asking: Any) -> Optuna:
    """From the command line's options."""
    return Optuna(trials, Asking(seed=sampler_seed, **asking))
