"""Trackers: a run told to TensorBoard, Weights & Biases, MLflow or Trackio, from the run's own files.

A tracker is another process, which reads what `jaxfer run` has written (`following.py`). So it can neither change a run
nor stop it, and a run can be told while it goes on or long afterwards. A file of this folder is a tracker: its
`tracker(project, into)` takes events, in the order `Begin`, `Metrics` ..., `End`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from jaxfer.errors import InputError, nearest

# {tracker: the package that it needs}, which is also the extra that installs it.
TRACKERS = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Begin:
    """A run is to be told.

    Attributes:
      id: 16 hexadecimal digits, the same whenever this run is told: a second time continues the first.
      name: of the run.
      folder: where it lies.
      config: {dotted field: value} of its config.json.
      started: when it began, seconds since the epoch.
    """

    id: str
    name: str
    folder: str
    config: Mapping[str, Any]
    started: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """A line of metrics.jsonl. Steps never decrease, and no step's split comes twice.

    Attributes:
      step: of the run.
      time: when it was logged, seconds since the epoch: the run's beginning plus the seconds it has trained.
      values: {`val/accuracy`: value}.
    """

    step: int
    time: float
    values: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """Nothing more will be told.

    Attributes:
      finished: whether there is a result; else the run stopped early, or goes on untold.
      step: that the result is of; else the last.
      time: of the last line.
      summary: {`result/val/accuracy` or `cost/seconds`: value}; empty without a result.
    """

    finished: bool
    step: int
    time: float
    summary: Mapping[str, float]


class Tracker(Protocol):
    """What a run is told to. `begin` is called first and once, `end` last and once."""

    def begin(self, event: Begin) -> None: ...

    def metrics(self, event: Metrics) -> None: ...

    def end(self, event: End) -> None: ...


def make(name: str, *, project: str, into: str) -> Tracker:
    """A tracker.

    Args:
      name: one of `TRACKERS`.
      project: wandb's and Trackio's project, MLflow's experiment.
      into: where it writes to, as `jaxfer track --help` says; empty: its default.

    Raises:
      InputError: no such tracker, or its package is missing.
    """
    if name not in TRACKERS:
        raise InputError(f"--to={name}: no such tracker{nearest(name, TRACKERS)}")
    try:
        return importlib.import_module(f"jaxfer.trackers.{name}").tracker(project, into)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != TRACKERS[name]:
            raise
        raise InputError(f"--to={name} needs the package {TRACKERS[name]}; pip install 'jaxfer[{name}]'") from None
