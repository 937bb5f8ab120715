"""Runs cells as SLURM jobs, which submitit submits: a job for each group, those ready at once as one job array.

Jobs and the command meet in the sweep's folder `jobs`, where submitit's files and the jobs' logs are too. A job whose
time is over or that is preempted saves its cells, and its group is submitted again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from etils import epath
from submitit.core.utils import FailedJobError, FailedSubmissionError

from jaxfer import console
from jaxfer.errors import InputError
from jaxfer.files import remote
from jaxfer.sweeps.attempts import Group
from jaxfer.sweeps.executors.base import Died, Event, Saved, Workers, files_path
from jaxfer.sweeps.executors.job import OWNER, There, events, serve
from jaxfer.sweeps.executors.processes import without_interrupts
from jaxfer.sweeps.executors.slurm_options import Options
from jaxfer.training import compilation_cache
from jaxfer.training.preemption import grace

FOLDER = "jobs"
EXECUTORS = {"slurm": submitit.SlurmExecutor, "local": submitit.LocalExecutor, "debug": submitit.DebugExecutor}
MOST = 256  # jobs at once unless --jobs says otherwise: arrays have at most 1000 elements where nobody changed it
POLL, LATE = 5.0, 15.0  # seconds between two calls of squeue; in which a file reaches this machine from another
GONE = "GONE"  # from squeue's memory, which is five minutes long
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
ENDED |= {"TIMEOUT", GONE}


@dataclasses.dataclass(eq=False)
class _Worker:
    """A place for one job after another.

    Attributes:
      call: the function of the job that is to be submitted.
      told: the file that the job tells its sweep through, and how many of its bytes are read.
      sent: when it was submitted.
      job: submitit's; None: none is submitted.
      log: of the last one.
      missing: since when the job is known to have ended without a last word.
    """

    group: Group | None = None
    compiled: frozenset[Any] = frozenset()
    call: Any = None
    told: Path = Path()
    read: int = 0
    sent: float = 0.0
    job: Any = None
    log: Path = Path()
    missing: float = math.inf


class Slurm(Workers):
    """Jobs, at most `jobs` at once.

    Args:
      cluster: `slurm`; `local`: as processes of this machine; `debug`: in this process, one after another.
      jobs: None: a job for each group, up to 256, or for each core where they are processes of this machine.
      parameters: of submitit's executor.
    """

    deaths = 3

    def __init__(self, cluster: str, jobs: int | None, parameters: Mapping[str, Any]):
        self._cluster, self._parameters, self._token = cluster, parameters, uuid.uuid4().hex
        self._jobs = 1 if cluster == "debug" else jobs or (MOST if cluster == "slurm" else os.cpu_count() or 1)
        self._folder, self._executor, self._count = Path(), None, 0
        self._states, self._asked, self._answered = dict[str, str](), -math.inf, -math.inf
        self._stopping = False
        self.workers: list[_Worker] = []

    def at_most(self, groups: int) -> None:
        self._jobs = min(self._jobs, groups)

    def __enter__(self) -> Slurm:
        self.workers = [_Worker() for _ in range(self._jobs)]
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, worker: _Worker, group: Group, folder: epath.Path) -> _Worker:
        if self._executor is None:
            self._open(folder)
        self._count += 1
        cells = [(cell.key, cell.config.to_dict()) for cell in group]
        worker.told, worker.read = self._folder / f"{self._token}-{self._count}.told", 0
        cache = compilation_cache.in_use()
        there = None if self._cluster == "debug" else There(self._token, os.getcwd(), cache and os.fspath(cache))
        worker.call = functools.partial(serve, os.fspath(worker.told), files_path(folder), cells, there)
        return worker

    def _open(self, folder: epath.Path) -> None:
        """Takes the folder of jobs over from an earlier command, whose jobs save and end."""
        if remote(folder) or "%" in str(folder):  # in which sbatch and submitit see a pattern
            raise InputError(
                f"--executor=slurm: expected a folder on a file system of all nodes, no % in its path, found {folder}"
            )
        self._folder = Path(files_path(folder)) / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / OWNER).write_text(self._token)
        pickles = {path.name.removesuffix("_submitted.pkl"): path for path in self._folder.glob("*_submitted.pkl")}
        if self._cluster == "slurm" and pickles:
            self._leave(pickles)
        for path in [*pickles.values(), *self._folder.glob("*.told")]:
            path.unlink(missing_ok=True)
        self._executor = EXECUTORS[self._cluster](self._folder)
        self._executor.update_parameters(**self._parameters)

    def _leave(self, jobs: Sequence[str]) -> None:
        """Has an earlier command's jobs save, and waits for them."""
        _scancel("--state=PENDING", *jobs)
        now, said = time.monotonic(), False
        while alive := [job for job in jobs if self._state(job, now, 1.0) not in ENDED]:
            if not said:
                more = f" and {len(alive) - 8} more" if len(alive) > 8 else ""
                console.say(f"waiting for jobs of an earlier call to save: {', '.join(alive[:8])}{more}")
                said = True
            if time.monotonic() > now + grace():
                _scancel(*alive)
            time.sleep(1)

    def _state(self, job: str, since: float, pause: float) -> str:
        """A job's state, asked every `pause` seconds; PENDING where SLURM has not answered since then."""
        if time.monotonic() - self._asked > pause:
            self._asked = time.monotonic()
            command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i %T"]
            answer = subprocess.run(command, capture_output=True, text=True)
            if answer.returncode == 0:  # else the controller is too busy
                self._states = dict(line.split()[:2] for line in answer.stdout.splitlines() if line.strip())
                self._answered = self._asked
        return self._states.get(job, GONE) if self._answered > since else "PENDING"

    def events(self) -> Iterator[tuple[_Worker, Event]]:
        self._submit()
        time.sleep(0.2)
        for worker in [worker for worker in self.workers if worker.job is not None]:
            how = self._ended(worker)  # first: nobody ends before what it told has arrived
            told, worker.read = events(worker.told, worker.read)
            for event in told:
                if event is None or isinstance(event, (Died, Saved)):
                    self._forget(worker)
                    how = None
                yield worker, self._died(worker, event.how) if isinstance(event, Died) else event
            if how is not None and worker.job is not None:
                self._forget(worker)
                yield worker, Saved() if how == "PREEMPTED" else self._died(worker, how)

    def _submit(self) -> None:
        workers = [worker for worker in self.workers if worker.call is not None]
        if not workers:
            return
        try:
            with _own_job_hidden(), without_interrupts(), self._executor.batch():
                jobs = [self._executor.submit(worker.call) for worker in workers]
        except (FailedJobError, FailedSubmissionError) as error:
            line = " ".join(str(error).replace("sbatch: error: ", "").split())[:300]
            raise InputError(f"sbatch takes no such job ({line}); correct --partition, --time, --slurm, ...") from None
        for worker, job in zip(workers, jobs, strict=True):
            worker.job, worker.call, worker.sent, worker.missing = job, None, time.monotonic(), math.inf

    def _ended(self, worker: _Worker) -> str | None:
        """How a worker's job ended, where that is so; its last word may still be on its way."""
        if self._cluster != "slurm":
            return "killed, or it never began" if worker.job.done() else None  # `debug` runs it in here
        state = self._state(worker.job.job_id, worker.sent, 1.0 if self._stopping else POLL)
        if state not in ENDED:
            return None
        worker.missing = min(worker.missing, time.monotonic())
        return state if self._stopping or time.monotonic() - worker.missing >= LATE else None

    def _died(self, worker: _Worker, how: str) -> Died:
        return Died(f"{how}; its log: {worker.log}")

    def _forget(self, worker: _Worker) -> None:
        """A job that has ended is no successor's business."""
        worker.job.paths.submitted_pickle.unlink(missing_ok=True)
        worker.log, worker.job = worker.job.paths.stderr, None

    def replaced(self, worker: _Worker) -> _Worker:
        fresh = self.workers[self.workers.index(worker)] = _Worker()
        return fresh

    def stop(self, seconds: float = math.inf) -> None:
        for worker in self.workers:
            worker.call = None
        if not (jobs := self._running()):
            return
        self._stopping, until = True, time.monotonic() + seconds
        (self._folder / OWNER).write_text("")
        if self._cluster == "slurm":
            _scancel("--state=PENDING", *jobs)
        while self._running() and time.monotonic() < until:
            for _ in self.events():
                pass

    def _running(self) -> list[str]:
        return [worker.job.job_id for worker in self.workers if worker.job is not None]

    def close(self, seconds: float = 0.0) -> None:
        self.stop(grace(seconds))
        if (jobs := self._running()) and self._cluster == "slurm":
            _scancel(*jobs)
        if self._executor is not None:
            for path in [*self._folder.glob("*.told"), *self._folder.glob("*_result.pkl")]:
                path.unlink(missing_ok=True)
        self.workers = []

    def release(self) -> None:
        pass


def _scancel(*words: str) -> None:
    subprocess.run(["scancel", "--quiet", *words], capture_output=True)


@contextlib.contextmanager
def _own_job_hidden() -> Iterator[None]:
    """Where this command is in a SLURM job itself, sbatch and srun would take that job's variables for options."""
    names = [name for name in os.environ if re.match("SLURMD?_|SRUN_", name) and name != "SLURM_CONF"]
    hidden = {name: os.environ.pop(name) for name in names} if "SLURM_JOB_ID" in os.environ else {}
    try:
        yield
    finally:
        os.environ.update(hidden)


def make(**given: Any) -> Slurm:
    """From the command line's options; `InputError` for values that no cluster takes."""
    options = Options(**given)
    if options.cluster == "slurm" and None in map(shutil.which, ("sbatch", "srun", "squeue", "scancel")):
        raise InputError(
            "--executor=slurm: this machine has no sbatch; start the command where jobs are submitted, "
            "or try it on this machine by --cluster=local"
        )
    return Slurm(options.cluster, options.jobs, options.parameters())
