"""A run's files as events, once or while it goes on, and the events handed to a tracker."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from jaxfer import files
from jaxfer.errors import InputError, Interrupted
from jaxfer.runs import history
from jaxfer.runs.folder import holds_run, in_use, read_result, stored_experiment
from jaxfer.runs.metrics import TIMES, read_metrics
from jaxfer.trackers import Begin, End, Metrics, Tracker, make

PAUSE = 2.0  # seconds between two looks at a run that goes on


def track(
    run: str | epath.Path,
    to: str,
    *,
    live: bool = False,
    project: str = "",
    into: str = "",
    say: Callable[[str], None] = print,
) -> None:
    """Tells a run to a tracker. What it was told before is not told again.

    Args:
      run: the run's folder, finished or not.
      to: one of `jaxfer.trackers.TRACKERS`.
      live: follow it until it has a result or its process is gone.
      project: wandb's and Trackio's project, MLflow's experiment; default: the name of the folder above the run's.
      into: where the tracker writes to; default: its own.
      say: is told how it went, a line at a time.

    Raises:
      InputError: no run there, no such tracker, or the tracker failed; the run does not notice.
      Interrupted: Ctrl-C; what was told is complete.
    """
    folder = files.opened(run)
    while live and not (folder / "config.json").exists() and in_use(folder):  # it has only just been started
        time.sleep(PAUSE)
    if not holds_run(folder):
        raise InputError(f"no run at {folder}: expected a folder that `jaxfer run` wrote")
    whole = folder if files.remote(folder) else folder.resolve()
    tracker = make(to, project=project or whole.parent.name or "jaxfer", into=into)
    last: Begin | Metrics | End | None = None
    try:
        for event in events(whole, live=live, say=say):
            tell(tracker, event)
            last = event
    except KeyboardInterrupt:
        if last is not None:
            tracker.end(End(finished=False, step=getattr(last, "step", 0), time=time.time(), summary={}))
        raise Interrupted("interrupted; the run goes on, and the same command continues to track it") from None
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or ["no message"])[0]
        raise InputError(
            f"--to={to}: {type(error).__name__}: {reason}; the run is untouched, and the same command continues here"
        ) from error
    how = "finished" if last.finished else "not finished"
    say(f"told {to} of {folder} up to step {last.step}; the run is {how}")


def tell(tracker: Tracker, event: Begin | Metrics | End) -> None:
    """Hands one event to a tracker."""
    match event:
        case Begin():
            tracker.begin(event)
        case Metrics():
            tracker.metrics(event)
        case End():
            tracker.end(event)


def events(
    folder: epath.Path,
    *,
    live: bool = False,
    say: Callable[[str], None] = print,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Begin | Metrics | End]:
    """What a run's files say: `Begin`, a `Metrics` for each line of metrics.jsonl, `End`.

    A resumed run takes lines back and writes them again. They are the same, bit for bit, on the same machine, and are
    not told twice. Where they differ after all, the first stay told, since no tracker takes a step back, and one
    warning says so.
    """
    started = _started(folder)
    yield Begin(
        id=identity(folder),
        name=folder.name,
        folder=str(folder),
        config=history.flattened(files.read_json(folder / "config.json")),
        started=started,
    )
    told: dict[tuple[int, str], Mapping[str, Any]] = {}
    last, when, warned, seen = (0, ""), started, False, None
    while True:
        # Both are asked before the lines are read: none can come between the last look and the end.
        goes_on = live and in_use(folder) and not (folder / "result.json").exists()
        if (stamp := _stamp(folder)) != seen or not goes_on:
            seen = stamp
            for line in read_metrics(folder / "metrics.jsonl"):
                key = line["step"], line["split"]
                if key > last:
                    last, told[key], when = key, line, started + line.get("seconds", 0.0)
                    yield Metrics(step=line["step"], time=when, values=_values(line))
                elif not warned and _numbers(line) != _numbers(told.get(key, {})):
                    warned = True
                    say(f"warning: step {line['step']} was trained again with another outcome; the first stays told")
        if not goes_on:
            break
        sleep(PAUSE)
    yield _end(folder, last[0], when)


def identity(folder: epath.Path) -> str:
    """16 hexadecimal digits for the run in a folder, the same when it is resumed or extended."""
    fields = stored_experiment(folder).identity()
    text = json.dumps([str(folder), fields], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _started(folder: epath.Path) -> float:
    """When the run began: ledger.json is written once, config.json by each attempt."""
    path = next(path for path in (folder / "ledger.json", folder / "config.json") if path.exists())
    return float(path.stat().mtime)


def _stamp(folder: epath.Path) -> Any:
    """Changes with metrics.jsonl; of a store always, whose parts are listed anew."""
    path = folder / "metrics.jsonl"
    if files.remote(folder) or not path.exists():
        return object()
    found = path.stat()
    return found.mtime, found.length


def _values(line: Mapping[str, Any]) -> dict[str, float]:
    return {f"{line['split']}/{name}": float(value) for name, value in _numbers(line).items()}


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a line that are numbers, without times; NaN, which equals nothing, is left out."""
    numbers = {name: value for name, value in history.metrics(line).items() if name not in TIMES}
    kinds = (int, float)
    return {name: value for name, value in numbers.items() if isinstance(value, kinds) and not math.isnan(value)}


def _end(folder: epath.Path, step: int, when: float) -> End:
    if not (folder / "result.json").exists():
        return End(finished=False, step=step, time=when, summary={})
    result = read_result(folder)
    scores = history.flattened({"result": result["metrics"], "cost": result["cost"]})
    summary = {name.replace(".", "/"): float(v) for name, v in scores.items() if isinstance(v, (int, float))}
    return End(finished=True, step=result["checkpoint_step"], time=when, summary=summary)
