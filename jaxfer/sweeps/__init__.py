"""`jaxfer sweep`: a config's `sweep()` as a table. `cells.py` makes the cells, `executor.py` runs them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxfer import config, files
from jaxfer.errors import InputError
from jaxfer.evals.intervals import too_few
from jaxfer.runs import seal
from jaxfer.runs.folder import locked
from jaxfer.sweeps import cells, table
from jaxfer.sweeps.cells import Cell, Job
from jaxfer.sweeps.executor import DIVERGED, FAILED, Outcome, execute
from jaxfer.sweeps.executors import Executor, Here, make
from jaxfer.sweeps.queue import grouped
from jaxfer.sweeps.remaining import Remaining
from jaxfer.sweeps.samplers import Grid, Sampler
from jaxfer.sweeps.table import Row
from jaxfer.terminal import page_of, say
from jaxfer.training.progress import Progress, Reporter

COMMAND = "command.json"

__all__ = ["COMMAND", "Cell", "Row", "SweepResult", "run_cells", "sweep"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepResult:
    """A finished sweep.

    Attributes:
      rows: of its table.
      failed: cells that ended with an error; their tracebacks are in their folders.
      diverged: cells whose loss became non-finite.
    """

    rows: tuple[Row, ...]
    failed: int
    diverged: int

    @property
    def exit_code(self) -> int:
        """1 where a cell failed, else 3 where one diverged, else 0."""
        return 1 if self.failed else 3 if self.diverged else 0


def sweep(
    spec: str,
    workdir: str | epath.Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    processes: int = 1,
    executor: Executor | None = None,
    sampler: Sampler | None = None,
    quiet: bool = False,
) -> SweepResult:
    """Runs the missing cells of the config file's `sweep()`; writes table.csv, table.md and methods.{png,svg}.

    command.json says what was asked for: the config, the overrides, and the sampler's options.

    Args:
      spec: `FILE` of a config with `sweep() -> iterable of Cell or of dicts of overrides`; `FILE:ARG` for `sweep(arg)`.
      workdir: holds cells/KEY, a run folder for each cell, and cells.json, which says what they are.
      overrides: applied to every cell of the table.
      processes: how many cells run side by side.
      executor: what runs them, as `sweeps.executors.make` makes it, in place of `processes`.
      sampler: which cells, as `sweeps.samplers.make` makes it; by default those of `sweep()`.
      quiet: print warnings and the table only.

    Raises:
      InputError: a cell's config is wrong; nothing has been run.
      Preempted: SIGTERM came; every cell under way is saved.
    """
    from jaxfer.figures import plots  # matplotlib is slow to import, and no process that runs cells needs it

    spec = config.spelled(spec)
    sampler = sampler or Grid()
    jobs = list(cells.make_jobs(spec, sampler.first(spec, overrides or {})))
    folder = files.opened(workdir)
    if (folder / seal.PROTOCOL).exists():
        raise InputError(f"{folder} holds a comparison, whose runs are sealed; use another --workdir")
    executor = executor or make(processes=processes)
    executor.at_most(len(jobs) + sampler.left)
    with locked(folder), executor, contextlib.closing(sampler):
        sampler.begin(jobs, folder)
        command = {"config": spec, "overrides": dict(overrides or {}), "options": dict(sampler.options)}
        files.write_json(folder / COMMAND, command)
        outcomes = run_cells(jobs, folder, executor, sampler, quiet=quiet)
    rows = table.rows(jobs, outcomes)
    shown = next(p for p in jobs if p.cell.group)
    label = f"{shown.split} {shown.metric}"
    files.write_text(folder / "table.csv", table.as_csv(rows))
    files.write_text(folder / "table.md", table.as_markdown(rows, label))
    scores = {row.group: row.scores for row in rows if row.scores}
    if scores:
        plots.methods(scores, folder / "methods", label, best="max" if shown.maximize else "min")
    print(table.as_text(rows, label, page_of(sys.stdout)))
    counts = table.counts(outcomes)
    if counts[FAILED] or counts[DIVERGED]:
        lost = f"{counts[FAILED]} cells failed, {counts[DIVERGED]} diverged"
        say(f"{lost}: see cells.json and the error.txt of each")
    fewest = min((len(row.scores) for row in rows if len(row.scores) > 1), default=0)
    if warning := too_few(fewest, "some rows have 2 runs"):
        say(warning)
    say(f"table.csv, table.md, methods.png, cells.json and every run are in {folder}")
    return SweepResult(rows=tuple(rows), failed=counts[FAILED], diverged=counts[DIVERGED])


def run_cells(
    jobs: Sequence[Job],
    folder: epath.Path,
    executor: Executor | None = None,
    sampler: Sampler | None = None,
    *,
    quiet: bool = False,
    again: str = "",
) -> dict[str, Outcome]:
    """Runs the missing cells, reports progress and keeps cells.json up to date.

    Args:
      jobs: each after the cell it starts from.
      folder: of the sweep.
      executor: what runs them, entered; by default this process.
      sampler: adds to the list `jobs` what is drawn while it runs.
      quiet: print warnings only.
      again: said in place of a line for each cell where cells that cells.json knows are asked for something more.
    """
    executor, reporter = executor or Here(), Reporter(quiet=quiet)
    standing = _Standing(jobs, reporter, executor.slots, plain=not again)
    drawn, known = sampler is not None and sampler.left > 0, len(jobs)

    def keep_index() -> None:
        if not again:
            statuses = {key: outcome.status for key, outcome in standing.ended.items()}
            files.write_json(folder / "cells.json", cells.index(jobs, statuses))

    def more(outcomes: Mapping[str, Outcome]) -> Sequence[Job]:
        added = sampler.more(outcomes)
        jobs.extend(added)
        if sampler.order is not None:
            jobs[known:] = sorted(jobs[known:], key=sampler.order)
        standing.added(added, sampler.left)
        if added or not sampler.left:
            keep_index()
        return added

    keep_index()
    with contextlib.closing(reporter):
        if again:
            reporter.say(again)
        for note in () if again else dict.fromkeys(note for cell in jobs for note in cell.notes):
            reporter.say(f"note: {note}")
        groups = [len(group) for group in grouped(list({p.key: p for p in jobs}.values())) if len(group) > 1]
        if groups and not again:
            reporter.say(f"trained together, in one program each: {', '.join(f'{count} cells' for count in groups)}")
        standing.begin(sampler.left if drawn else 0)
        try:
            tell = {"told": standing.told, "watched": standing.watched, "more": more if drawn else None}
            tell["eager"] = drawn and sampler.order is not None
            outcomes = execute(jobs, folder, executor=executor, trained=bool(again), **tell)
        finally:
            keep_index()
    if not again:
        reporter.say(f"{standing.compiled} training programs compiled in this attempt")
        place = folder / cells.FOLDER  # absent where no cell has begun
        if others := {path.name for path in place.glob("*")} - set(standing.names):
            reporter.say(f"{len(others)} cells of other configs, data or code are left alone in {place}")
    return outcomes


class _Standing:
    """A sweep's status, reported after every cell: failures, the best so far, the time left."""

    def __init__(self, jobs: Sequence[Job], reporter: Reporter, processes: int, *, plain: bool):
        self.names = {p.key: p.cell.name for p in reversed(jobs)}
        self.ended, self.compiled = dict[str, Outcome](), 0
        self._reporter, self._plain = reporter, plain
        self._remaining = Remaining(jobs, processes, trained=not plain)
        self._best: tuple[float, str] | None = None
        self._total, self._begun = len(self.names), time.perf_counter()

    def begin(self, trials: int) -> None:
        """Starts the live line; `trials` will be added."""
        self._total = len(self.names) + trials
        self._reporter.begin(self._total, 0)

    def added(self, jobs: Sequence[Job], left: int) -> None:
        """Cells that were drawn; `left` are still to be."""
        self.names |= {p.key: p.cell.name for p in reversed(jobs) if p.key not in self.names}
        self._total = len(self.names) + left
        self._reporter.extend(self._total)
        self._remaining.added(jobs)

    def told(self, cell: Job, outcome: Outcome) -> None:
        self.ended[cell.key] = outcome
        self.compiled += outcome.compiles
        ending = f"{outcome.status}: {outcome.message}"
        if outcome.result is not None:
            score = outcome.result["metrics"][cell.split][cell.metric]
            ending = f"{cell.split} {cell.metric} {score:.3f}"
            if cell.cell.group and (self._best is None or (score - self._best[0]) * (1 if cell.maximize else -1) > 0):
                self._best = score, self.names[cell.key]
        seconds = self._remaining.after(cell, outcome, self.ended)
        if unknown := self._total - len(self.names):  # the trials so far, and these take as long each as what has ended
            seconds += math.ceil((time.perf_counter() - self._begun) / len(self.ended) * unknown)
        self._reporter.cell(len(self.ended), self.names[cell.key], ending, self._note(), seconds, plain=self._plain)

    def watched(self, group: Sequence[Job], progress: Progress | None) -> None:
        names = {cell.cell.group for cell in group}
        name = f"{len(group)} x {names.pop() or 'source'}" if len(names) == 1 else f"{len(group)} cells"
        self._reporter.together(group[0].key, name, progress, maximize=group[0].maximize)

    def _note(self) -> str:
        count = table.counts(self.ended)
        notes = [f"{count[status]} {status}" for status in (FAILED, DIVERGED) if count[status]]
        if self._best is not None and self._plain:
            notes.append(f"best {self._best[1]} {self._best[0]:.3f}")
        return " · ".join(notes)
