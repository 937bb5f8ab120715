"""`jaxfer compare`: which transfer method works, by how much, at what cost; with a verdict that can be trusted.

The protocol is in `protocol.py`, what is compared in `arms.py` and `simple.py`, verdicts in `findings.py`, tables in
`tables.py`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxfer import config, files
from jaxfer.comparison import samplers, tables
from jaxfer.comparison.findings import Finding, findings
from jaxfer.comparison.protocol import Design, claim, make_design, select, selection_record
from jaxfer.comparison.samplers import Sampler
from jaxfer.comparison.search import Search
from jaxfer.comparison.simple import BaselineScores, Scores, test_baselines, tune_baselines
from jaxfer.errors import CellsFailed
from jaxfer.runs import seal
from jaxfer.runs.folder import locked
from jaxfer.sweeps import cells, run_cells, table
from jaxfer.sweeps.executor import FAILED, Outcome
from jaxfer.sweeps.executors import Executor, make
from jaxfer.terminal import page_of, say
from jaxfer.training.progress import Reporter

__all__ = ["Comparison", "compare"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A finished comparison.

    Attributes:
      findings: of every label count and arm, scratch first.
      baselines: the simple ones, with their test scores.
      sentences: the verdict in words.
    """

    findings: tuple[Finding, ...]
    baselines: tuple[BaselineScores, ...]
    sentences: str


def compare(
    spec: str,
    workdir: str | epath.Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    processes: int = 1,
    executor: Executor | None = None,
    sampler: Sampler | None = None,
    quiet: bool = False,
) -> Comparison:
    """Tunes every arm on val, then reads test once and says whether transfer helped.

    Writes protocol.json, selection.json, comparison.json, table.{csv,md}, verdict.md and the pictures methods, curves,
    cost and, for several label counts, labels (PNG and SVG). A killed comparison started again goes on.

    Args:
      spec: `FILE` or `FILE:ARG` of a config that transfers (`config.init` names a source); what is compared is in
        `config.compare`. Sources are the cells without a group that its `sweep()` yields.
      workdir: holds the runs too, under cells/.
      overrides: applied to every arm.
      processes: how many runs go on side by side.
      executor: what runs them, as `sweeps.executors.make` makes it, in place of `processes`.
      sampler: which settings, as `comparison.samplers.make` makes it; by default those of the grids.
      quiet: print warnings and the findings only.

    Raises:
      InputError: something in the config is wrong, or the folder holds another comparison; nothing has been run.
      CellsFailed: some run ended with an error: nothing was selected, and test stays sealed.
      Preempted: SIGTERM came; every run under way is saved.
    """
    sampler = samplers.checked(sampler)
    with executor or make(processes=processes) as running:  # its processes import while this one plans
        return _compare(spec, workdir, overrides or {}, running, sampler, quiet=quiet)


def _compare(
    spec: str,
    workdir: str | epath.Path,
    overrides: Mapping[str, Any],
    executor: Executor,
    sampler: Sampler,
    *,
    quiet: bool,
) -> Comparison:
    from jaxfer.evals import baselines  # scikit-learn is slow to import

    spec, running = config.spelled(spec), dict(executor=executor, quiet=quiet)
    design, folder = make_design(spec, overrides, sampler), files.opened(workdir)
    for note in design.notes:
        Reporter(quiet=quiet).say(f"note: {note}")
    task, classes = design.ready.experiment.task.name, len(design.ready.data.classes)
    features = design.ready.stages[0].spec.port.encoding.features
    kinds = baselines.baselines(task, classes, features=features) if task in baselines.TASKS else ()
    if not kinds:
        Reporter(quiet=quiet).say(f"note: task {task!r} has no simple baseline; arms are judged against scratch alone")
    for name, _ in design.ready.experiment.streams:
        Reporter(quiet=quiet).say(
            f"note: config.stream.{name}: arms are judged on the main data; its metrics are in each run's result.json"
        )
    search = Search(design, sampler)
    with locked(folder):
        claim(folder, design)
        search.open(folder)
        outcomes = run_cells([*design.sources, *design.tuning.values()], folder, sampler=search, **running)
        _all_ended(outcomes, folder)
        design = search.complete()
        _keep_index(design, outcomes, folder)
        scores = Scores(design, folder)
        selected, tuned = select(design, outcomes), tune_baselines(design, kinds, scores)
        record, opened = selection_record(design, selected, [dataclasses.asdict(b) for b in tuned])
        seal.write_selection(folder, record, opened)
        outcomes |= _read_test(design, opened, folder, outcomes, **running)
        executor.release()
        if design.config.severity or design.config.retention:
            Reporter(quiet=quiet).say("reading the tuned runs on corrupted inputs, or on their sources' val splits")
        simplest = test_baselines(design, kinds, tuned, scores)
        judged = findings(design, selected, outcomes, simplest, folder)
        command = {"config": spec, "overrides": dict(overrides)}
        files.write_json(folder / "comparison.json", {"command": command, **tables.as_json(design, judged, simplest)})
        sentences = tables.write(folder, spec, design, judged, simplest)
    print(tables.as_text(design, judged, simplest, page_of(sys.stdout)) + "\n")
    say(sentences + "\n")
    say(f"verdict.md, table.csv, the pictures, protocol.json, selection.json and every run are in {folder}")
    return Comparison(findings=tuple(judged), baselines=tuple(simplest), sentences=sentences)


def _read_test(
    design: Design, opened: Sequence[str], folder: epath.Path, outcomes: Mapping[str, Outcome], **options: Any
) -> dict[str, Outcome]:
    jobs = [design.opened(p) for p in design.tuning.values() if p.key in set(opened)]
    # Their sources are done: reading test needs no training.
    jobs = [dataclasses.replace(p, sources=()) for p in jobs if outcomes[p.key].result is not None]
    tested = run_cells(jobs, folder, again="selection.json is written: reading the test split", **options)
    _all_ended(tested, folder)
    return tested


def _keep_index(design: Design, outcomes: Mapping[str, Outcome], folder: epath.Path) -> None:
    """Writes cells.json in the order of the design, whatever was drawn when."""
    statuses = {key: outcome.status for key, outcome in outcomes.items()}
    files.write_json(folder / "cells.json", cells.index([*design.sources, *design.tuning.values()], statuses))


def _all_ended(outcomes: Mapping[str, Outcome], folder: epath.Path) -> None:
    failed = table.counts(outcomes)[FAILED]
    if failed:
        raise CellsFailed(
            f"{failed} of {len(outcomes)} runs failed, see cells.json in {folder} and the error.txt of each; "
            "test stays sealed; run the same command again"
        )
