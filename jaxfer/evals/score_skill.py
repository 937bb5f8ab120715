"""What a score of candidates is worth: how well it orders them by what runs from them reached on val."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxfer.data.prepare import DataConfig
from jaxfer.pretrained import starting
from jaxfer.runs import history
from jaxfer.runs.folder import read_result
from jaxfer.runs.survey import FINISHED, Run

DRAWS = 1000
SAME = {"classes": (), "labels_per_class": 0, "labels": 0}  # of the data's config, with what an old run has
ORDERS = 6  # candidates whose orders are all tried
WIDE = (
    "few candidates say little: with 10 tau's sampling error is about 0.2. The interval is by bootstrap over the "
    "candidates, and has no width where every draw agrees; chance is how often a random order does as well"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reached:
    """What runs from a candidate reached.

    Attributes:
      metric: of the validation split, by which the task chooses.
      value: the best setting's mean over its seeds.
      maximize: whether more of it is better.
      seeds: of that setting.
      settings: that were tried.
      folders: of the best setting's runs.
    """

    metric: str
    value: float
    maximize: bool
    seeds: int
    settings: int
    folders: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skill:
    """How a score orders the candidates that there are runs of.

    Attributes:
      tau: weighted Kendall's tau (`scipy.stats.weightedtau`, rank=True); None of fewer than two, or of equal ones.
      low: end of its 95 % percentile interval by bootstrap over candidates; None of fewer than three.
      high: likewise.
      chance: share of the orders of these candidates whose tau is at least this: all of them for six or fewer, else
        1,000 at random.
      candidates: that have both.
    """

    tau: float | None
    low: float | None
    high: float | None
    chance: float | None
    candidates: int


def reached(init: str, place: epath.Path, data: DataConfig, data_sha256: str, runs: Sequence[Run]) -> Reached | None:
    """The best validated setting of the finished runs from a candidate on this data; None where there is none.

    Runs that differ in the seed alone are one setting. `scratch` has none: what is trained from it is no transfer.

    Args:
      init: as `config.init` names the candidate.
      place: the folder that `sibling:NAME` is beside.
      data: whose classes and label counts runs have to have.
      data_sha256: of its source; runs on other data do not count.
      runs: as `survey` finds them.
    """
    own, settings, metric, maximize = starting.identity(init, place), {}, "", True
    for run in runs if init != "scratch" else ():
        folder = epath.Path(run.folder)
        if run.state != FINISHED or starting.identity(run.config["init"], folder) != own:
            continue
        if _drawn(run.config) != tuple(getattr(data, name) for name in SAME):
            continue
        if read_result(folder)["lineage"]["data_sha256"] != data_sha256:
            continue
        watched = history.monitor(_nested(run.config))
        if watched is None or f"val.{watched.metric}" not in run.scores or metric not in ("", watched.metric):
            continue
        metric, maximize = watched.metric, watched.maximize
        setting = {name: value for name, value in run.config.items() if name != "seed"}
        key = json.dumps(setting, sort_keys=True, default=str)
        settings.setdefault(key, {})[run.folder] = run.scores[f"val.{metric}"]
    if not settings:
        return None
    means = [(float(np.mean(list(found.values()))), len(found), tuple(found)) for found in settings.values()]
    value, seeds, folders = (max if maximize else min)(means)
    return Reached(metric=metric, value=value, maximize=maximize, seeds=seeds, settings=len(settings), folders=folders)


def _drawn(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which labels a run has, of a flattened config."""
    found = (config.get(f"data.{name}", usual) for name, usual in SAME.items())
    return tuple(tuple(value) if isinstance(value, list) else value for value in found)


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `history.monitor` reads of a flattened config."""
    own = {name: config[name] for name in ("monitor", "monitor_mode", "rooms") if name in config}
    return {"task": {"name": config["task.name"]}, **own}


def skills(columns: Mapping[str, Sequence[float | None]], found: Sequence[Reached | None]) -> dict[str, Skill]:
    """{name: how the column orders the candidates}, of those with runs; {} where there are none.

    Args:
      columns: {score or baseline: its value for each candidate}.
      found: of each candidate.
    """
    having = [i for i, one in enumerate(found) if one is not None]
    if not having:
        return {}
    values = [found[i].value * (1 if found[i].maximize else -1) for i in having]
    return {name: skill([column[i] for i in having], values) for name, column in columns.items()}


def skill(values: Sequence[float | None], reached: Sequence[float]) -> Skill:
    """The weighted tau of what is known, and its interval: the middle 95 % of 1,000 draws of candidates.

    Vigna, 2015, "A Weighted Correlation Index for Rankings with Ties", arXiv:1404.3325: exchanges among the best weigh
    more. A draw in which all candidates are equal has none, and is left out.

    Args:
      values: [candidates], more being better; None where there is none.
      reached: [candidates], likewise.
    """
    known = [i for i, value in enumerate(values) if value is not None]
    x, y = np.array([values[i] for i in known], np.float64), np.asarray(reached, np.float64)[known]
    tau, count, rng = _tau(x, y), len(known), np.random.default_rng(0)
    if tau is None:
        return Skill(tau=None, low=None, high=None, chance=None, candidates=count)
    orders = itertools.permutations(range(count)) if count <= ORDERS else (rng.permutation(count) for _ in range(DRAWS))
    chance = float(np.mean([_tau(x, y[list(order)]) >= tau - 1e-12 for order in orders]))
    if count < 3:
        return Skill(tau=tau, low=None, high=None, chance=chance, candidates=count)
    drawn = rng.integers(count, size=(DRAWS, count))
    low, high = np.quantile([t for rows in drawn if (t := _tau(x[rows], y[rows])) is not None], [0.025, 0.975])
    return Skill(tau=tau, low=float(low), high=float(high), chance=chance, candidates=count)


def _tau(x: np.ndarray, y: np.ndarray) -> float | None:
    from scipy.stats import weightedtau  # slow to import

    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):
        return None
    return float(weightedtau(x, y).statistic)
