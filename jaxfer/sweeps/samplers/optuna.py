"""Optuna's samplers by ask and tell, on a storage of its own: a journal in the sweep's folder, or a database.

Trials are asked for in batches of a fixed size, and each with a seed of its own: which trials a sweep has depends
neither on what runs them nor on where it was killed. The value that Optuna is told is the task's metric on val. A trial
whose cell failed stays open, and is run again by the next start; one that diverged is told as pruned: worse than all.
"""

from __future__ import annotations

import csv
import inspect
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from etils import epath

from jaxfer import files
from jaxfer.errors import InputError, nearest
from jaxfer.runs.folder import remote
from jaxfer.sweeps import cells
from jaxfer.sweeps.attempts import DIVERGED, DONE, Outcome
from jaxfer.sweeps.cells import Cell, Job
from jaxfer.sweeps.samplers.random import Drawn
from jaxfer.sweeps.samplers.space import Trial, trial_cell

JOURNAL = "optuna.journal"
IMPORTANCE = "importance.csv"
State = optuna.trial.TrialState


class Asked(Trial):
    """A trial of a study."""

    def __init__(self, trial: optuna.Trial):
        super().__init__()
        self._trial = trial

    def _float(self, field: str, low: float, high: float, log: bool) -> float:
        return self._trial.suggest_float(field, low, high, log=log)

    def _integer(self, field: str, low: int, high: int, log: bool) -> int:
        return self._trial.suggest_int(field, low, high, log=log)

    def _choice(self, field: str, values: tuple[Any, ...]) -> Any:
        return self._trial.suggest_categorical(field, values)


class Optuna:
    """A study.

    Args:
      trials: in all.
      seed: of the algorithm's draws.
      algorithm: one of Optuna's samplers, `TPE` for its `TPESampler`.
      storage: URL of a database; None: a journal in the sweep's folder.
      ask: trials that are asked for together.
    """

    def __init__(self, trials: int, *, seed: int = 0, algorithm: str = "TPE", storage: str | None = None, ask: int = 4):
        self._count, self._seed, self._ask, self._url = trials, seed, ask, storage
        self._class = _class(algorithm)
        self._asked: dict[int, Job] = {}
        self._sampler(0)  # an algorithm that wants more than a seed is refused at once

    @property
    def left(self) -> int:
        return self._count - len(self._asked)

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
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                storage = optuna.storages.RDBStorage(self._url) if self._url else _journal(folder)
                # Of this config, data and code alone; in a database shared with others, too.
                name, direction = f"jaxfer-{self._example.key}", "maximize" if self._example.maximize else "minimize"
                self._study = optuna.create_study(
                    storage=storage, study_name=name, direction=direction, load_if_exists=True
                )
        except ImportError as error:
            raise InputError(f"--storage={self._url} needs the package {error.name}; pip install it") from None
        except Exception as error:
            if not self._url:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"--storage={self._url}: expected the URL of a database that answers; {reason}") from None

    def more(self, outcomes: Mapping[str, Outcome]) -> Sequence[Job]:
        self._tell(outcomes)
        # Those of an earlier start come at once, with the rest of a batch that it had begun to ask for.
        there = min(len(self._study.get_trials(deepcopy=False)), self._count)
        new: dict[str, Job] = {}
        while not new and self.left:
            upto = max(there, len(self._asked) + 1)
            upto = min(-(-upto // self._ask) * self._ask, self._count)
            for number in range(len(self._asked), upto):
                self._asked[number] = job = self._job(number)
                self._before[job.cell.name] = job
                if job.key not in outcomes:
                    new.setdefault(job.key, job)
            if not new:  # all drawn before: told of at once
                self._tell(outcomes)
        if not new:
            self._write_importance()
        return list(new.values())

    def close(self) -> None:
        pass

    def _job(self, number: int) -> Job:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._study.sampler = self._sampler(number)
            known = self._study.get_trials(deepcopy=False)
            if number < len(known) and _ended(known[number]):
                trial, drawn = None, _Replayed(known[number].params)
            else:
                trial = (
                    self._study.ask() if number == len(known) else optuna.Trial(self._study, known[number]._trial_id)
                )
                drawn = Asked(trial)
            try:
                return cells.checked(self._spec, trial_cell(self._spec, number, drawn, self._overrides), self._before)
            except InputError:
                if trial is not None:  # it would stand in the way of every later start
                    self._study.tell(trial, state=State.FAIL)
                raise

    def _tell(self, outcomes: Mapping[str, Outcome]) -> None:
        known = self._study.get_trials(deepcopy=False)
        for number, job in self._asked.items():
            outcome = outcomes.get(job.key)
            if outcome is None or _ended(known[number]):
                continue
            if outcome.status == DONE:
                self._study.tell(number, outcome.result["metrics"]["val"][job.metric])
            elif outcome.status == DIVERGED:
                self._study.tell(number, state=State.PRUNED)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        takes = inspect.signature(self._class).parameters
        options: dict[str, Any] = {"seed": int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])}
        if "constant_liar" in takes:  # trials of one batch keep away from each other
            options["constant_liar"] = True
        name = self._class.__name__.removesuffix("Sampler")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return self._class(**{option: value for option, value in options.items() if option in takes})
        except ImportError as error:
            raise InputError(f"--algorithm={name} needs another package: {str(error).splitlines()[0]}") from None
        except TypeError as error:
            raise InputError(f"--algorithm={name} needs more than a seed ({error}); use another, TPE say") from None

    def _write_importance(self) -> None:
        """The share of each field in the metric's variance (fANOVA), of the fields that every trial drew."""
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        except (RuntimeError, ValueError):  # fewer than two trials, or all alike
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("field", "importance"))
        writer.writerows((field, f"{share:.6f}") for field, share in found.items())
        files.write_text(self._folder / IMPORTANCE, text.getvalue())


class _Replayed(Asked):
    """A trial that has ended, drawn once more."""

    def __init__(self, params: Mapping[str, Any]):
        Trial.__init__(self)
        self._params = params

    def _float(self, field: str, *_: Any) -> Any:
        if field not in self._params:
            raise InputError(f"space: {field} is not what an earlier trial drew; use another --workdir")
        return self._params[field]

    _integer = _choice = _float


def _ended(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state.is_finished()


def _class(algorithm: str) -> type[optuna.samplers.BaseSampler]:
    known = [name.removesuffix("Sampler") for name in optuna.samplers.__all__ if name.endswith("Sampler")]
    if algorithm.removesuffix("Sampler") not in known:
        raise InputError(f"--algorithm={algorithm}: no such sampler of Optuna's{nearest(algorithm, known)}")
    return getattr(optuna.samplers, f"{algorithm.removesuffix('Sampler')}Sampler")


def _journal(folder: epath.Path) -> optuna.storages.JournalStorage:
    if remote(folder):
        raise InputError(f"{folder}: a store can't hold Optuna's journal; set --storage to the URL of a database")
    path = os.fspath(folder / JOURNAL)
    if os.path.exists(path):  # a kill may have torn its last line, and left its lock; the folder's own is ours
        with open(path, "r+b") as file:
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)
    if os.path.lexists(path + ".lock"):
        os.unlink(path + ".lock")
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))


def make(
    *, trials: int, sampler_seed: int = 0, algorithm: str = "TPE", storage: str | None = None, ask: int = 4
) -> Optuna:
    """From the command line's options."""
    if type(ask) is not int or ask < 1:
        raise InputError(f"--ask: expected a whole number from 1 on, found {ask}")
    return Optuna(trials, seed=sampler_seed, algorithm=algorithm, storage=storage, ask=ask)
