"""An attempt at a group of cells in this process: how each of them ends, and what is kept of an error.

A cell that fails keeps its traceback (error.txt) and one that diverges its reason (diverged.json); the others go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxfer import files
from jaxfer.data.prepare import opened_once
from jaxfer.errors import InputError, Interrupted, NonFiniteLoss, Preempted
from jaxfer.runs import records
from jaxfer.sweeps.cells import FOLDER, Job
from jaxfer.training.blocks import Grid
from jaxfer.training.loop import run_together
from jaxfer.training.programs import compiles
from jaxfer.training.progress import Progress, Together

DONE, FAILED, DIVERGED = "done", "failed", "diverged"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a cell ended.

    Attributes:
      status: DONE, FAILED or DIVERGED.
      result: its result.json, where it is done.
      message: why it is not, in one line.
      compiles: training programs compiled for it in this attempt.
    """

    status: str
    result: Mapping[str, Any] | None = None
    message: str = ""
    compiles: int = 0


def mean_val(jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> float:
    """Mean of the jobs' metric on val; NaN where one of them has no result."""
    results = [outcomes[job.key].result for job in jobs]
    if any(result is None for result in results):
        return math.nan
    scores = (result["metrics"]["val"][job.metric] for job, result in zip(jobs, results, strict=True))
    return math.fsum(scores) / len(jobs)


Group = tuple[Job, ...]
Told = Callable[[Job, Outcome], None]


def attempt(group: Group, folder: epath.Path, told: Told, watched: Callable[[Progress], None]) -> None:
    """Runs a group's cells in this process, which opens their data once; raises SIGTERM and an interrupt alone.

    Args:
      group: the cells.
      folder: of the sweep.
      told: of every outcome, as it comes.
      watched: of the progress of cells that are trained together.
    """
    counted = compiles()
    stopped: list[Preempted | Interrupted] = []

    def tell(cell: Job, ended: Any) -> None:
        nonlocal counted
        if isinstance(ended, (Preempted, Interrupted)):
            stopped.append(ended)
            return
        outcome = dataclasses.replace(_outcome(ended, folder / FOLDER / cell.key), compiles=compiles() - counted)
        counted = compiles()
        told(cell, outcome)

    runs: list[tuple[ConfigDict, epath.Path] | None] = []
    for cell in group:
        place = folder / FOLDER / cell.key
        try:
            known = _diverged(place)
        except InputError as error:
            known = error
        runs.append((cell.config, place) if known is None else None)
        if known is not None:
            tell(cell, known)
    grid = Grid.of([cell.config.seed for cell in group])
    together = Together(watched if len(group) > 1 else lambda progress: None)
    reporters = [together.reporter() for _ in group]
    with opened_once():
        run_together(runs, grid, reporters=reporters, told=lambda member, ended: tell(group[member], ended))
    if stopped:
        raise stopped[0]


def _outcome(ended: Any, place: epath.Path) -> Outcome:
    """Of a result.json's contents, of an error, or of why a cell diverged before."""
    if isinstance(ended, str):
        return Outcome(status=DIVERGED, message=ended)
    if isinstance(ended, NonFiniteLoss):
        files.write_json(place / "diverged.json", {"message": str(ended)})
        return Outcome(status=DIVERGED, message=str(ended))
    if isinstance(ended, BaseException):  # the other cells go on after any error
        with contextlib.suppress(OSError):  # a full disk has no room for it
            place.mkdir(parents=True, exist_ok=True)
            files.write_text(place / "error.txt", "".join(traceback.format_exception(ended)))
        line = " ".join(str(ended).split())[:200] or "no message"
        return Outcome(status=FAILED, message=f"{type(ended).__name__}: {line}")
    (place / "error.txt").unlink(missing_ok=True)
    return Outcome(status=DONE, result=ended)


def _diverged(place: epath.Path) -> str | None:
    """Why this cell diverged before; None where it has not. `InputError` where its diverged.json is damaged."""
    if not (place / "diverged.json").exists():
        return None
    return files.read_json(place / "diverged.json", records.Diverged)["message"]
