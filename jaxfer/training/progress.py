"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere, nothing when silenced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter:
    """Progress of one run.

    Args:
      quiet: print nothing but warnings.
      console: where to; default: standard error, so that a command's result stays alone on standard output.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task: Any = None

    def begin(self, total: int, done: int) -> None:
        """A run of `total` steps, or a sweep of as many cells, starts at `done`."""
        self._total = total
        if self._quiet or not self._console.is_terminal:
            return
        columns = (
            "[bold]{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            "{task.fields[note]}",
        )
        self._bar = Progress(*(TextColumn(c) if isinstance(c, str) else c for c in columns), console=self._console)
        self._task = self._bar.add_task("training", total=total, completed=done, note="")
        self._bar.start()

    def step(self, step: int, stage: str) -> None:
        """One more step is under way."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=stage)

    def line(self, record: Mapping[str, Any]) -> None:
        """A line of metrics."""
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in record.items() if isinstance(v, float))
        if self._bar is not None:
            self._bar.update(self._task, note=numbers)
        elif not self._quiet:
            self._print(f"{record['stage']} {record['split']} step {record['step']}: {numbers}")

    def cell(self, done: int, name: str, what: str, note: str, left: str, *, plain: bool = True) -> None:
        """A cell of a sweep has ended: as the `done`-th, with what, how the sweep stands and how long it will take.

        Where there is no bar, which has a clock of its own, it gets a line, if `plain`.
        """
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=name, note=note)
        elif plain and not self._quiet:
            self._print(f"[{done}/{self._total}] {name}: " + " · ".join(filter(None, (what, note, left))))

    def say(self, text: str) -> None:
        """One plain line, unless silenced."""
        if not self._quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """One line that is never silenced."""
        self._print(f"warning: {text}")

    def close(self) -> None:
        """The run is over, well or badly."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
