"""The progress of a run or a sweep: a live line on a terminal, plain lines in a file or a pipe, nothing when silenced.

What a person may want to read again (an evaluation, a finished cell, a note) is a line of its own above the live one.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.text import Text

from jaxfer import terminal

LOG_EVERY = 10.0  # seconds between a log's lines about training; metrics.jsonl has every one
PAUSE = 0.1  # seconds between what is told of runs that are trained together
# Metrics that a line has only where they are watched: it would be two. metrics.jsonl has every one.
UNSAID = frozenset({"auroc", "auprc", "macro_auroc", "macro_auprc", "top5_accuracy", "ece", "brier"})
BAR = (8, 40)  # columns of the bar: at least, else it is left out; at most


class Reporter:
    """Reports the progress of a run or a sweep on a terminal or in a log.

    Args:
      quiet: print warnings only.
      console: where to print; default: standard error, which leaves standard output to the result.
      clock: seconds; `time.perf_counter`, or a test's.
    """

    _live_console: ClassVar[Console | None] = None  # shows the live line of this process: a sweep's, for its runs

    def __init__(
        self, *, quiet: bool = False, console: Console | None = None, clock: Callable[[], float] = time.perf_counter
    ):
        # Left to itself, rich takes a pipe for a terminal where FORCE_COLOR is set: logs would fill with control codes.
        plain = Console(stderr=True, force_terminal=terminal.is_terminal(sys.stderr))
        self._console = console or Reporter._live_console or plain
        self.quiet = quiet
        self._clock = clock
        self._live: Live | None = None
        self._logged = -LOG_EVERY
        self._metric = ""
        self._status = Status()
        self._pace = Pace()
        self._together: dict[Hashable, _Shown] = {}  # groups of runs

    def begin(self, total: int, done: int, *, name: str = "", metric: str = "") -> None:
        """Starts the live line.

        Args:
          total: steps of the run, or cells of the sweep.
          done: how many of them an earlier attempt did.
          name: shown until the first step says its stage.
          metric: of the task, shown from the last evaluation.
        """
        self._metric, self._begun = metric, self._clock()
        self._status = Status(name=name, done=done, total=total, left="starting" if done < total else "")
        if not self.quiet and self._console.is_interactive:
            # What is printed meanwhile goes above the live line, unless it is meant for a file.
            to_screen = terminal.is_terminal(sys.stdout)
            self._live = Live(console=self._console, get_renderable=self._lines, redirect_stdout=to_screen)
            self._live.start()
            Reporter._live_console = self._console

    def extend(self, total: int) -> None:
        """Another number of cells in all."""
        self._status = self._status._replace(total=total)

    def follow(self, metric: str) -> None:
        """Shows another metric: that of the next stage's task."""
        self._metric = metric

    def step(self, step: int, stage: str, compiled: float = 0.0) -> None:
        """Step `step` of the run, of stage `stage`, is done; the run has spent `compiled` seconds compiling so far."""
        now, status = self._clock(), self._status
        left, rate = self._pace.told(stage, step, status.total, now - compiled) or (status.left, "")
        if step == status.total:
            left = f"in {duration(now - self._begun)}"
        self._status = status._replace(name=stage, done=step, left=left, rate=rate)

    def line(self, record: Mapping[str, Any]) -> None:
        """A record of metrics.jsonl: evaluations are printed; training moves the live line or, at times, is logged."""
        split, numbers = record["split"], {k: v for k, v in record.items() if isinstance(v, float)}
        trains, status = split == "train", self._status
        if trains and "loss" in numbers:
            self._status = status._replace(loss=f"loss {short(numbers['loss'])}")
        elif self._metric in numbers:
            value = short(numbers[self._metric])
            self._status = status._replace(scores=(f"{split} {self._metric} {value}", f"{split} {value}"))
        if self.quiet or (trains and self._live is not None):
            return
        if trains:
            now = self._clock()
            if now - self._logged < LOG_EVERY and record["step"] < status.total:
                return
            self._logged = now
        parts = [f"{name} {short(value)}" for name, value in numbers.items() if self._says(name)]
        if trains and status.left.endswith(" left"):
            parts.append(f"({status.percent}, {status.left})")
        start = f"{record['stage']} {split} step {record['step']}: "
        self._write(terminal.packed(parts, self._width, start=start))

    def cell(self, done: int, name: str, ending: str, note: str, seconds: float, *, plain: bool = True) -> None:
        """A cell of a sweep has ended, as the `done`-th.

        Args:
          done: cells that have ended, this one included.
          name: the cell's.
          ending: its score, or why it has none.
          note: how the sweep stands.
          seconds: that the remaining cells will take; 0 where none remain.
          plain: give the cell a line of its own.
        """
        left = f"about {duration(seconds)} left" if seconds else ""
        ended = "" if seconds else f"in {duration(self._clock() - self._begun)}"
        self._status = self._status._replace(done=done, left=left or ended, scores=(note,))
        if plain and not self.quiet:
            parts = filter(None, (ending, *(() if self._live is not None else (note, left))))
            self._write(
                terminal.packed(parts, self._width, start=f"[{done}/{self._status.total}] {name}: ", between=" · ")
            )

    def together(self, key: Hashable, name: str, progress: Progress | None, *, maximize: bool) -> None:
        """The progress of a group of a sweep's cells: a line above the sweep's, or at times a log's at an evaluation.

        Args:
          key: of the group.
          name: shown first.
          progress: None: it has ended.
          maximize: whether a larger score is better.
        """
        if progress is None:
            self._together.pop(key, None)
            return
        now, step = self._clock(), progress.step
        status, pace, begun, logged = self._together.get(key) or _Shown(Status(left="starting"), Pace(), step)
        told = pace.told("", step, progress.stop, now - progress.compiled) if step > begun else None
        left, rate = told or (status.left, "")
        status = Status(name=name, done=step, total=progress.stop, left=left, rate=rate, scores=status.scores)
        if progress.scores:
            best = f"{short((max if maximize else min)(progress.scores))} best"
            median = f"{short(statistics.median(progress.scores))} median"
            both = f"{best}, {median}"
            status = status._replace(scores=(f"val {progress.metric} {both}", f"val {both}", f"val {best}"))
            logs = progress.evaluated and step < progress.stop and now - logged >= LOG_EVERY
            if logs and self._live is None and not self.quiet:
                logged = now
                parts = [f"{progress.metric} {best}", median]
                parts += [f"({status.percent}, {left})"] if told else []
                self._write(terminal.packed(parts, self._width, start=f"{name} val step {step}: "))
        self._together[key] = _Shown(status, pace, begun, logged)

    def _lines(self) -> Group:
        return Group(*(group.status for group in self._together.values()), self._status)

    def say(self, text: str) -> None:
        """Prints a line, unless silenced."""
        if not self.quiet:
            self._write(terminal.wrapped(text, self._width))

    def warn(self, text: str) -> None:
        """Prints a warning, silenced or not."""
        self._write(terminal.wrapped(f"warning: {text}", self._width))

    def close(self) -> None:
        """Ends the live line, which stays on the screen as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = Reporter._live_console = None

    def _says(self, name: str) -> bool:
        """Whether a line has this metric, of the main data or of a stream (`NAME/metric`)."""
        return name == self._metric or name.rpartition("/")[2] not in UNSAID

    @property
    def _width(self) -> int | None:
        return max(self._console.width, terminal.NARROWEST) if self._console.is_terminal else None

    def _write(self, text: str) -> None:
        self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


class Pace:
    """The speed of a stage's steps after its first, whose program was compiled before it.

    Evaluations and inputs of other lengths compile theirs later: these seconds are none of the remaining steps'. Its
    clock stands still meanwhile.
    """

    def __init__(self) -> None:
        self._first: tuple[str, int, float] | None = None  # stage, step and time at which its first step was done

    def told(self, stage: str, step: int, total: int, now: float) -> tuple[str, str] | None:
        """(the time left until step `total`, the speed) after a step done at `now`, without compiling; or None."""
        if self._first is None or self._first[0] != stage:
            self._first = stage, step, now
        _, first, since = self._first
        if step <= first or now <= since:
            return None
        pace = (now - since) / (step - first)  # evaluations included, as the remaining steps have theirs
        return f"{duration((total - step) * pace)} left", speed(pace)


class _Shown(NamedTuple):
    """A group: its line, its speed, the step at which it began, and when a log last had a line of it."""

    status: Status
    pace: Pace
    begun: int
    logged: float = -LOG_EVERY


class Progress(NamedTuple):
    """How far runs are that are trained together.

    Attributes:
      step: the mean over the runs, rounded down.
      stop: steps of each.
      metric: of their task.
      scores: of each that has been evaluated, its last.
      evaluated: whether the last of them was evaluated right now, and all at one step.
      compiled: seconds that they have spent compiling since their first steps.
    """

    step: int
    stop: int
    metric: str = ""
    scores: tuple[float, ...] = ()
    evaluated: bool = False
    compiled: float = 0.0


class Together:
    """The progress of runs that are trained together, told as one, by a reporter for each.

    Args:
      tell: is told of it, at most every `PAUSE` seconds and whenever all have been evaluated.
      clock: as of `Reporter`.
    """

    def __init__(self, tell: Callable[[Progress], None], *, clock: Callable[[], float] = time.perf_counter):
        self._tell, self._clock, self._told = tell, clock, -PAUSE
        self._members: list[_Member] = []  # those under way
        self.compiled = 0.0

    def reporter(self) -> Reporter:
        """The reporter of one of the runs, which itself prints warnings only."""
        return _Member(self)

    def begun(self, member: _Member) -> None:
        self._members.append(member)
        self.moved()

    def ended(self, member: _Member) -> None:
        self._members = [other for other in self._members if other is not member]

    def moved(self, *, evaluated: bool = False) -> None:
        now, members = self._clock(), self._members
        if not evaluated and now - self._told < PAUSE:
            return
        self._told = now
        step, (first, *_) = sum(member.done for member in members) // len(members), members
        scores = tuple(member.score[1] for member in members if member.score is not None)
        self._tell(Progress(step, first.total, first.metric, scores, evaluated, self.compiled))

    def scored(self, member: _Member, step: int) -> None:
        if member not in self._members:  # it was resumed after its last step
            return
        if all(other.score is not None and other.score[0] == step for other in self._members):
            self.moved(evaluated=True)


class _Member(Reporter):
    """Of one of several runs."""

    def __init__(self, group: Together):
        super().__init__(quiet=True)
        self._group, self.score, self._compiled = group, None, None
        self.done, self.total, self.metric = 0, 0, ""

    def begin(self, total: int, done: int, *, name: str = "", metric: str = "") -> None:
        self.done, self.total, self.metric = done, total, metric
        if done < total:
            self._group.begun(self)

    def follow(self, metric: str) -> None:
        self.metric, self.score = metric, None

    def step(self, step: int, stage: str, compiled: float = 0.0) -> None:
        if self._compiled is not None:  # what was compiled before counts for nothing
            self._group.compiled += compiled - self._compiled
        self.done, self._compiled = step, compiled
        self._group.moved()

    def line(self, record: Mapping[str, Any]) -> None:
        if record["split"] == "val" and self.metric in record:
            self.score = record["step"], record[self.metric]
            self._group.scored(self, record["step"])

    def close(self) -> None:
        self._group.ended(self)


class Status(NamedTuple):
    """A live line, in at most the columns of its terminal: the less telling fields go first where it is narrow.

    Attributes:
      name: of the stage; empty in a sweep.
      done: steps or cells that are done.
      total: of them.
      left: the time left, or what stands in its place.
      rate: the speed.
      loss: the last training loss.
      scores: the last evaluation, from its longest to its shortest form.
    """

    name: str = ""
    done: int = 0
    total: int = 1
    left: str = ""
    rate: str = ""
    loss: str = ""
    scores: Sequence[str] = ("",)

    @property
    def percent(self) -> str:
        """Rounded down, so that 100 % is the end."""
        return f"{100 * self.done // max(self.total, 1)}%"

    def fields(self, width: int, ellipsis: str = "…") -> tuple[str, str]:
        """(what is left of the bar, what is right of it), together with a blank between them in `width` columns."""
        count = f"{self.done}/{self.total}"
        name = terminal.shortened(self.name, terminal.SHORTEST_NAME, ellipsis)
        choices = [(name, count, self.percent, self.left, self.rate, self.loss, score) for score in self.scores]
        *_, last = self.scores
        choices += [
            (name, count, self.percent, self.left, "", self.loss, last),
            (name, count, self.percent, self.left, "", self.loss, ""),
            (name, count, self.percent, self.left, "", "", ""),
            ("", count, self.percent, self.left, "", "", ""),
            ("", count, "", self.left, "", "", ""),
        ]
        for fields in choices:
            left, right = fields[0], terminal.GAP.join(filter(None, fields[1:]))
            if cell_len(left) + bool(left) + cell_len(right) <= width:
                return left, right
        return "", terminal.shortened(count, width, ellipsis)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - 1  # some terminals start a new line at a character in the last column
        left, right = self.fields(width, "..." if options.ascii_only else "…")
        columns = min(width - cell_len(left) - bool(left) - cell_len(right) - 1, BAR[1])
        yield Text(left + " " * bool(left), end="", style="bold")
        if columns >= BAR[0]:
            full = columns * min(self.done, self.total) // max(self.total, 1)
            done, rest = ("#", ".") if options.ascii_only else ("━", "─")
            yield Text.assemble((done * full, "bar.complete"), (rest * (columns - full), "bar.back"), " ", end="")
        yield Text(right, no_wrap=True)


def duration(seconds: float) -> str:
    """`0:42`, `2:03:05` or `3 d 04:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed(pace: float) -> str:
    """Seconds a step as `8.1 steps/s`, or as `2.4 s/step` where a step takes more than one."""
    return f"{short(pace, 2)} s/step" if pace > 1 else f"{short(1 / pace, 2)} steps/s"


def short(value: float, digits: int = 4) -> str:
    """Four figures, as `0.4065`; a large number keeps its integer digits: `12346`, not `1.235e+04`."""
    return f"{value:.0f}" if 10**digits - 0.5 <= abs(value) < 1e15 else f"{value:.{digits}g}"
