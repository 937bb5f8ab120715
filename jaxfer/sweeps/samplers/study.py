"""An Optuna study by ask and tell, on a storage of its own: a journal in the work folder, or a database.

Trials are asked for in batches of a fixed size, and each with a seed of its own: which trials a study has depends
neither on what runs them nor on where it was killed. A restart goes through the batches once more, so that cells are
trained together with the same ones. The value that Optuna is told is the mean of a trial's jobs on val. A trial of
which a job failed stays open, and one of which a job diverged is told as pruned: worse than all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from etils import epath

from jaxfer.errors import InputError, nearest
from jaxfer.runs.folder import remote
from jaxfer.sweeps.attempts import DIVERGED, DONE, Outcome, mean_val
from jaxfer.sweeps.cells import Job
from jaxfer.sweeps.samplers.space import Trial

JOURNAL = "optuna.journal"
State = optuna.trial.TrialState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asking:
    """How trials are asked for: options of the command line.

    Attributes:
      seed: of the algorithm's draws.
      algorithm: one of Optuna's samplers, `TPE` for its `TPESampler`.
      storage: URL of a database; None: a journal in the work folder.
      ask: trials that are asked for together.

    Raises:
      InputError: no such algorithm, or one that needs more than a seed; a wrong `ask`.
    """

    seed: int = 0
    algorithm: str = "TPE"
    storage: str | None = None
    ask: int = 4

    def __post_init__(self) -> None:
        if type(self.ask) is not int or self.ask < 1:
            raise InputError(f"--ask: expected a whole number from 1 on, found {self.ask}")
        self.sampler(0)

    def sampler(self, number: int, field: int = 0) -> optuna.samplers.BaseSampler:
        """For the draw of one trial's field, by its place among those that the trial draws."""
        kind = _class(self.algorithm)
        takes, seeds = inspect.signature(kind).parameters, (self.seed, number, *([field] if field else []))
        options: dict[str, Any] = {"seed": int(np.random.SeedSequence(seeds).generate_state(1)[0])}
        if "constant_liar" in takes:  # trials of one batch keep away from each other
            options["constant_liar"] = True
        name = kind.__name__.removesuffix("Sampler")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return kind(**{option: value for option, value in options.items() if option in takes})
        except ImportError as error:
            raise InputError(f"--algorithm={name} needs another package: {str(error).splitlines()[0]}") from None
        except TypeError as error:
            raise InputError(f"--algorithm={name} needs more than a seed ({error}); use another, TPE say") from None

    def opened(self, folder: epath.Path) -> optuna.storages.BaseStorage:
        """The storage of a work folder, which is locked."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self.answering():
            return optuna.storages.RDBStorage(self.storage) if self.storage else _journal(folder)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """One line for a database that can't be used."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                yield
        except ImportError as error:
            raise InputError(f"--storage={self.storage} needs the package {error.name}; pip install it") from None
        except Exception as error:
            if not self.storage:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            expected = "expected the URL of a database that answers"
            raise InputError(f"--storage={self.storage}: {expected}; {reason}") from None


class Study:
    """A study whose trials are jobs.

    Args:
      asking: how it is asked for trials.
      trials: in all.
      make: (number, trial) -> the trial's jobs, which draws from the trial; an `InputError` ends the trial.
      first: {field: value} of trial 0; None: drawn as the others are.

    Attributes:
      jobs: of every trial so far, by number.
    """

    def __init__(
        self,
        asking: Asking,
        trials: int,
        make: Callable[[int, Trial], Sequence[Job]],
        *,
        first: Mapping[str, float] | None = None,
    ):
        self._asking, self._trials, self._make, self._first = asking, trials, make, first
        self.jobs: list[Sequence[Job]] = []

    @property
    def left(self) -> int:
        """Trials that are still to be drawn."""
        return self._trials - len(self.jobs)

    def begin(self, storage: optuna.storages.BaseStorage, key: str, *, maximize: bool) -> None:
        """Opens or creates the study called `jaxfer-KEY`; the key stands for all that its trials depend on."""
        name, direction = f"jaxfer-{key}", "maximize" if maximize else "minimize"
        with self._asking.answering():
            self.study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)

    def draw(self) -> Sequence[Job]:
        """The jobs of the next trial, which an earlier start may have drawn."""
        number = len(self.jobs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.study.sampler = self._asking.sampler(number)
            known = self.study.get_trials(deepcopy=False)
            if number == len(known) == 0 and self._first is not None:
                self.study.enqueue_trial(dict(self._first))
                known = self.study.get_trials(deepcopy=False)
            if number < len(known) and known[number].state.is_finished():
                trial, drawn = None, _Replayed(known[number].params)
            else:
                if number == len(known) or known[number].state == State.WAITING:
                    trial = self.study.ask()
                else:
                    trial = optuna.Trial(self.study, known[number]._trial_id)
                drawn = _Asked(trial, self._asking, number)
            try:
                self.jobs.append(self._make(number, drawn))
            except InputError:
                if trial is not None:  # it would stand in the way of every later start
                    self.study.tell(trial, state=State.FAIL)
                raise
        return self.jobs[-1]

    def more(self, outcomes: Mapping[str, Outcome]) -> list[Job]:
        """Jobs of the next batch of trials, and of further ones while all have ended; none: all trials are drawn."""
        self._tell(outcomes)
        jobs: list[Job] = []
        while self.left and all(job.key in outcomes for job in jobs):
            upto = (len(self.jobs) // self._asking.ask + 1) * self._asking.ask
            for _ in range(min(upto, self._trials) - len(self.jobs)):
                jobs += self.draw()
            self._tell(outcomes)  # of what has run as another trial
        return jobs

    def _tell(self, outcomes: Mapping[str, Outcome]) -> None:
        known = self.study.get_trials(deepcopy=False)
        for number, jobs in enumerate(self.jobs):
            statuses = {outcomes[job.key].status if job.key in outcomes else None for job in jobs}
            if known[number].state.is_finished() or not statuses <= {DONE, DIVERGED}:
                continue
            if DIVERGED in statuses:
                self.study.tell(number, state=State.PRUNED)
            else:
                self.study.tell(number, mean_val(jobs, outcomes))


class _Asked(Trial):
    """A trial of a study. Each field is drawn with a seed of its own: a kill between two of them changes neither."""

    def __init__(self, trial: optuna.Trial, asking: Asking, number: int):
        super().__init__()
        self._trial, self._asking, self._number = trial, asking, number
        _ = trial.relative_params  # what is drawn of all fields together: now, with the trial's seed

    def _seeded(self) -> optuna.Trial:
        if self.drawn:
            self._trial.study.sampler = self._asking.sampler(self._number, len(self.drawn))
        return self._trial

    def _float(self, field: str, low: float, high: float, log: bool) -> float:
        return self._seeded().suggest_float(field, low, high, log=log)

    def _integer(self, field: str, low: int, high: int, log: bool) -> int:
        return self._seeded().suggest_int(field, low, high, log=log)

    def _choice(self, field: str, values: tuple[Any, ...]) -> Any:
        return self._seeded().suggest_categorical(field, values)


class _Replayed(Trial):
    """A trial that has ended, drawn once more."""

    def __init__(self, params: Mapping[str, Any]):
        super().__init__()
        self._params = params

    def _float(self, field: str, *_: Any) -> Any:
        if field not in self._params:
            raise InputError(f"space: {field} is not what an earlier trial drew; use another --workdir")
        return self._params[field]

    _integer = _choice = _float


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
