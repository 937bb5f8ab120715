"""The simple baselines of a comparison: tuned on val, read on test once the selection is made; each is fitted once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sklearn
from etils import epath

from jaxfer import files
from jaxfer.comparison.arms import SCRATCH
from jaxfer.comparison.protocol import Design
from jaxfer.errors import InputError
from jaxfer.evals import baselines
from jaxfer.evals.baselines import Baseline
from jaxfer.sweeps.cells import Job
from jaxfer.task import score
from jaxfer.training.preflight import preflight

FILE = "baselines.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineScores:
    """A simple baseline at one label count.

    Attributes:
      labels: labels a class.
      name: as sentences call it.
      setting: the one that is best on val, the earlier of equals.
      val: mean val score of each setting tried.
      best: that of the chosen one.
      test: by seed; empty while the split is sealed.
    """

    labels: int
    name: str
    setting: float
    val: tuple[float, ...]
    best: float
    test: tuple[float, ...] = ()


class Scores:
    """Scores of baselines, kept in the comparison's folder: a finished comparison fits none again.

    A score is found by what it depends on: the cell whose examples it is of (its address hashes config, data and code),
    baseline, setting, split, and the code that fits. A damaged file is made anew.
    """

    def __init__(self, design: Design, folder: epath.Path):
        self._design, self._file = design, folder / FILE
        self._code = [Path(baselines.__file__).read_text(), sklearn.__version__]
        self._inputs: dict[tuple[str, str], Any] = {}
        try:
            self._known = files.read_json(self._file) if self._file.exists() else {}
        except InputError:
            self._known = {}

    def of(self, cell: Job, kind: Baseline, setting: float, split: str) -> float:
        """The score on a split of the cell's data, fitted to its training examples."""
        parts = json.dumps([cell.key, kind.name, setting, split, *self._code])
        key = hashlib.sha256(parts.encode()).hexdigest()
        if not isinstance(self._known.get(key), float):
            task = self._design.ready.stages[0].spec.task
            fitted, (x, examples) = self._read(cell, split)
            self._known[key] = float(score(task, kind.fit(*fitted, setting)(x), examples)[task.monitor])
        return self._known[key]

    def keep(self) -> None:
        """Writes them."""
        files.write_json(self._file, self._known)

    def _read(self, cell: Job, split: str) -> Any:
        """((training inputs, labels), (inputs, examples of the split)), read once."""
        if (cell.key, split) not in self._inputs:
            job = self._design.opened(cell) if split == "test" else cell
            flat, splits = self._design.ready.stages[0].spec.port.encoding.flat, preflight(job.config).data.splits
            train = flat(splits["train"]), splits["train"].labels
            self._inputs[cell.key, split] = train, (flat(splits[split]), splits[split])
        return self._inputs[cell.key, split]


def tune_baselines(design: Design, kinds: Sequence[Baseline], scores: Scores) -> list[BaselineScores]:
    """Tunes every simple baseline on train and val alone, with as many settings as an arm has trials."""
    better, tuned = max if design.ready.stages[0].spec.task.maximize else min, []
    for labels in design.labels if kinds else ():
        cells = design.cells(labels, SCRATCH, 0)
        for kind in kinds:
            settings = kind.settings[: design.config.trials]
            means = [statistics.fmean(scores.of(cell, kind, setting, "val") for cell in cells) for setting in settings]
            best = better(means)
            chosen = settings[means.index(best)]
            tuned.append(BaselineScores(labels=labels, name=kind.name, setting=chosen, val=tuple(means), best=best))
    scores.keep()
    return tuned


def test_baselines(
    design: Design, kinds: Sequence[Baseline], tuned: Sequence[BaselineScores], scores: Scores
) -> list[BaselineScores]:
    """Adds the baselines' test scores at the selected settings; called once the selection is on disk."""
    by_name, tested = {kind.name: kind for kind in kinds}, []
    for chosen in tuned:
        cells = design.cells(chosen.labels, SCRATCH, 0)
        found = (scores.of(cell, by_name[chosen.name], chosen.setting, "test") for cell in cells)
        tested.append(dataclasses.replace(chosen, test=tuple(found)))
    scores.keep()
    return tested
