"""What a run's own files tell of its course: its fields flattened, its monitor, its curves, its last evaluation.

Nothing here computes or opens a checkpoint; it reads config.json and metrics.jsonl.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxfer import registry
from jaxfer.errors import InputError

Line = Mapping[str, Any]
# Fields of a line of metrics.jsonl that are no metrics.
PLACE = ("step", "stage", "split", "seconds")


class Monitor(NamedTuple):
    """The validation metric that a run goes by, and whether more of it is better."""

    metric: str
    maximize: bool


def flattened(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of nested sections; an empty section has no field."""
    fields: dict[str, Any] = {}
    for name, value in section.items():
        fields |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return fields


def total_steps(config: Mapping[str, Any]) -> int:
    """Steps of all stages of a config.json."""
    stages = [config["stage"][name] for name in config["stages"]] if config["stages"] else [config]
    return sum(stage["steps"] for stage in stages)


def monitor(config: Mapping[str, Any]) -> Monitor | None:
    """What a config.json's run goes by; None for a task of the user's own whose file is gone or broken."""
    watched = config.get("monitor", ""), config.get("monitor_mode", "auto")
    return _monitor(config["task"]["name"], *watched, tuple(config.get("rooms", ())))


@functools.lru_cache(maxsize=64)
def _monitor(task: str, metric: str, mode: str, rooms: tuple[str, ...]) -> Monitor | None:
    try:
        if task not in registry.TASKS.names():
            registry.use(rooms)
        made = registry.TASKS.make(task).watching(task, metric, mode)
    except (InputError, TypeError):
        return None
    return Monitor(made.monitor, made.maximize)


def metrics(line: Line) -> dict[str, float]:
    """The metrics of a line of metrics.jsonl, without its step, stage, split and seconds."""
    return {name: value for name, value in line.items() if name not in PLACE}


def curve(lines: Iterable[Line], split: str, metric: str) -> tuple[list[int], list[float]]:
    """(steps, values) of a metric; lines without it are left out."""
    found = [(line["step"], line[metric]) for line in lines if line["split"] == split and metric in line]
    return [step for step, _ in found], [value for _, value in found]


def stages(lines: Iterable[Line]) -> list[tuple[str, int]]:
    """(name, last logged step) of each stage, in order."""
    ends: dict[str, int] = {}
    for line in lines:
        ends[line["stage"]] = line["step"]
    return list(ends.items())


def best(lines: Sequence[Line], by: Monitor) -> Line | None:
    """The evaluation on val with the best monitor, the first of equals; None without one.

    Evaluations before the last stage that has another task, whose metrics are others, are not compared with it.
    """
    evaluated = [line for line in lines if line["split"] == "val"]
    alike = [line for line in evaluated if by.metric in line and set(line) == set(evaluated[-1])]
    finite = [line for line in alike if math.isfinite(line[by.metric])]
    if not finite:
        return None
    return max(finite, key=lambda line: line[by.metric] if by.maximize else -line[by.metric])
