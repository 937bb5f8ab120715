"""The table of a sweep, one row for each group: CSV, Markdown, terminal. Everything but `seconds` is reproducible."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer import terminal
from jaxfer.evals.intervals import mean_interval
from jaxfer.sweeps.cells import Job
from jaxfer.sweeps.executor import DIVERGED, DONE, FAILED, Outcome
from jaxfer.terminal import FILE, NAME, NUMBER, Column, Page

COLUMNS = ("method", "mean", "interval95", "seconds", "params_trainable", "compiles", "failed", "diverged", "scores")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One group of cells.

    Attributes:
      group: name of the group.
      scores: the task's metric for each finished cell, in cell order.
      mean: mean of the scores; NaN without a finished cell.
      interval: half-width of the 95 % t interval of the mean; NaN for fewer than two finished cells.
      seconds: median wall-clock seconds of a run without its compilation; NaN without a finished cell.
      params_trainable: number of trainable parameter values in the last stage; 0 without a finished cell.
      compiles: number of training programs that these cells need and no earlier row needs.
      failed: number of cells that ended with an error.
      diverged: number of cells whose loss became non-finite.
    """

    group: str
    scores: tuple[float, ...]
    mean: float
    interval: float
    seconds: float
    params_trainable: int
    compiles: int
    failed: int
    diverged: int


def rows(jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> list[Row]:
    """One row for each group, in order of appearance; cells without a group get no row."""
    groups, seen = dict.fromkeys(p.cell.group for p in jobs if p.cell.group), set()
    for p in jobs:
        if not p.cell.group:
            seen.update(p.programs)
    result = []
    for group in groups:
        members = [p for p in jobs if p.cell.group == group]
        programs = {program for p in members for program in p.programs}
        result.append(_row(group, members, outcomes, len(programs - seen)))
        seen |= programs
    return result


def _row(group: str, members: Sequence[Job], outcomes: Mapping[str, Outcome], compiles: int) -> Row:
    ended = [(p, outcomes[p.key]) for p in members if p.key in outcomes]
    done: list[tuple[Job, Mapping[str, Any]]] = [(p, o.result) for p, o in ended if o.result is not None]
    scores = tuple(result["metrics"][p.split][p.metric] for p, result in done)
    mean, interval = mean_interval(scores) if scores else (math.nan, math.nan)
    costs = [result["cost"] for _, result in done]
    return Row(
        group=group,
        scores=scores,
        mean=mean,
        interval=interval,
        seconds=statistics.median(c["seconds"] - c["compile_seconds"] for c in costs) if costs else math.nan,
        params_trainable=costs[-1]["params_trainable"] if costs else 0,
        compiles=compiles,
        failed=sum(o.status == FAILED for _, o in ended),
        diverged=sum(o.status == DIVERGED for _, o in ended),
    )


def as_csv(table: Sequence[Row]) -> str:
    """The rows as CSV; the last column holds the scores of the cells, separated by blanks."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in table:
        numbers = (f"{row.mean:.6f}", f"{row.interval:.6f}", f"{row.seconds:.3f}")
        counts = (row.params_trainable, row.compiles, row.failed, row.diverged)
        writer.writerow((row.group, *numbers, *counts, " ".join(f"{score:.6f}" for score in row.scores)))
    return text.getvalue()


def as_markdown(table: Sequence[Row], label: str) -> str:
    """The rows as a Markdown table; `failed` and `diverged` appear only where a cell failed or diverged."""
    headers, body = _cells(table, label)
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def as_text(table: Sequence[Row], label: str, page: Page = FILE) -> str:
    """The same table as plain text that fits `page`."""
    headers, body = _cells(table, label)
    columns = [Column(header, NUMBER if i else NAME) for i, header in enumerate(headers)]
    return terminal.table(columns, body, page)


def _cells(table: Sequence[Row], label: str) -> tuple[list[str], list[list[str]]]:
    columns: dict[str, list[str]] = {
        "method": [row.group for row in table],
        label: [number(row.mean) for row in table],
        "95 % interval": [number(row.interval, "± ") for row in table],
        "seconds": [number(row.seconds, digits=1) for row in table],
        "trainable parameters": [f"{row.params_trainable:,}" for row in table],
        "compiles": [str(row.compiles) for row in table],
    }
    for status in (FAILED, DIVERGED):
        counts = [getattr(row, status) for row in table]
        if any(counts):
            columns[status] = [str(count) for count in counts]
    return list(columns), [list(line) for line in zip(*columns.values(), strict=True)]


def number(value: float, sign: str = "", digits: int = 3) -> str:
    """`± 0.021`; a dash for NaN."""
    return "-" if math.isnan(value) else f"{sign}{value:.{digits}f}"


def counts(outcomes: Mapping[str, Outcome]) -> dict[str, int]:
    """{status: number of cells that ended with it}."""
    return {status: sum(o.status == status for o in outcomes.values()) for status in (DONE, FAILED, DIVERGED)}
