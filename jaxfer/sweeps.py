"""A config's `sweep()`: run its cells, one after another in this process, and draw up the table.

Cells of equal shapes share one compiled program. A sweep started again goes on where it was: finished cells are read,
an unfinished one is resumed.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from rich.console import Console
from rich.table import Table

from jaxfer import config, rundir
from jaxfer.errors import InputError, Preempted
from jaxfer.evals.intervals import mean_interval
from jaxfer.loop import run
from jaxfer.preemption import preemption_notice
from jaxfer.progress import Reporter
from jaxfer.registry import TASKS
from jaxfer.report import plots


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep.

    Attributes:
      name: its folder's name.
      arg: what `get_config` is called with.
      overrides: {"a.b": value} on top.
      group: the row of the table it counts for (seeds of one method); empty for a preparation (a source to start
        from), which is run before, untouched by the command line's overrides, and left out of the table.
    """

    name: str
    arg: str = ""
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    group: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One group of cells.

    Attributes:
      group: its name.
      scores: the task's metric of each cell, in cell order.
      mean: of the scores.
      interval: half-width of the 95 % t interval of the mean; NaN for one cell.
      seconds: median seconds of a run, its compiling left out.
      params_trainable: trainable values of the last stage.
    """

    group: str
    scores: tuple[float, ...]
    mean: float
    interval: float
    seconds: float
    params_trainable: int


def sweep(spec: str, workdir: str | epath.Path, *, overrides: Mapping[str, Any] | None = None) -> list[Row]:
    """Runs every cell of the config file's `sweep()`; writes table.csv, table.md and methods.png into `workdir`.

    Args:
      spec: `FILE` of a config with `sweep() -> iterable of Cell`.
      workdir: holds a folder for each cell.
      overrides: applied to every cell of the table.

    Returns:
      The table's rows, in the order in which their groups appear.

    Raises:
      InputError: the file has no `sweep()`, or a cell's config is wrong; whatever `run` raises.
    """
    module, arg = config.load_module(spec)
    if arg or not hasattr(module, "sweep"):
        raise InputError(f"{spec}: expected a config file with sweep(), and no argument; `jaxfer run` takes one")
    folder, cells = epath.Path(workdir), list(module.sweep())
    configs = [_config(spec, cell, overrides or {}) for cell in cells]  # all checked before any is run
    split, metric = _score(configs[-1])
    found: dict[str, list[dict[str, Any]]] = {}
    reporter, begun = Reporter(), time.perf_counter()
    reporter.begin(len(cells), 0)
    with preemption_notice() as notice, contextlib.closing(reporter):
        for done, (cell, cell_config) in enumerate(zip(cells, configs, strict=True)):
            reporter.step(done, cell.name)
            result = run(cell_config, folder / cell.name, quiet=True)
            if cell.group:
                found.setdefault(cell.group, []).append(result)
            shown = split if split in result["metrics"] else "val"
            score, seconds = result["metrics"][shown][metric], time.perf_counter() - begun
            reporter.say(f"[{done + 1}/{len(cells)}] {cell.name}: {shown} {metric} {score:.3f} · {seconds:.0f} s")
            if notice and done + 1 < len(cells):
                raise Preempted(f"SIGTERM: {done + 1} of {len(cells)} cells are done; run the same command again")
    rows = [_row(group, results, split, metric) for group, results in found.items()]
    label = f"{split} {metric}"
    rundir.write_text(folder / "table.csv", _csv(rows))
    rundir.write_text(folder / "table.md", _markdown(rows, label))
    plots.methods(rows, folder / "methods.png", label)
    _print(rows, label)
    print(f"table.csv, table.md, methods.png and every run are in {folder}")
    return rows


def _config(spec: str, cell: Cell, overrides: Mapping[str, Any]) -> Any:
    loaded = config.load(f"{spec}:{cell.arg}" if cell.arg else spec, cell.overrides)
    loaded = config.override(loaded, overrides if cell.group else {})
    config.resolve(loaded)
    return loaded


def _score(cell_config: Any) -> tuple[str, str]:
    """(split, metric) that the table shows: the sealed test split where the config opens it."""
    experiment = config.resolve(cell_config)
    task = TASKS.make(experiment.task.name, **dict(experiment.task.options))
    return ("test" if experiment.run.test else "val"), task.monitor


def _row(group: str, results: Sequence[Mapping[str, Any]], split: str, metric: str) -> Row:
    scores = tuple(result["metrics"][split][metric] for result in results)
    mean, interval = mean_interval(scores)
    costs = [result["cost"] for result in results]
    return Row(
        group=group,
        scores=scores,
        mean=mean,
        interval=interval,
        seconds=statistics.median(cost["seconds"] - cost["compile_seconds"] for cost in costs),
        params_trainable=costs[-1]["params_trainable"],
    )


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    interval = "-" if row.interval != row.interval else f"± {row.interval:.3f}"
    return row.group, f"{row.mean:.3f}", interval, f"{row.seconds:.1f}", f"{row.params_trainable:,}"


def _headers(label: str) -> tuple[str, str, str, str, str]:
    return "method", label, "95 % interval", "seconds", "trainable parameters"


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("method", "mean", "interval95", "seconds", "params_trainable", "scores"))
    for row in rows:
        scores = " ".join(f"{score:.6f}" for score in row.scores)
        numbers = (f"{row.mean:.6f}", f"{row.interval:.6f}", f"{row.seconds:.3f}", row.params_trainable)
        writer.writerow((row.group, *numbers, scores))
    return text.getvalue()


def _markdown(rows: Sequence[Row], label: str) -> str:
    lines = [_headers(label), ("---", "---:", "---:", "---:", "---:"), *map(_cells, rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _print(rows: Sequence[Row], label: str) -> None:
    table = Table()
    for i, header in enumerate(_headers(label)):
        table.add_column(header, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*_cells(row))
    Console().print(table)
