"""The protocol of a comparison: its runs, their order and the selection rule. Fixed before anything is run.

1. Every arm gets the same number of trials by the same sampler (`samplers.py`), on the same seeds: the same labels,
   validation examples and batches.
2. The tuning runs hold train and val; the test split is sealed (`jaxfer/runs/seal.py`).
3. Of each arm the trial with the best mean on val is selected, the earlier of equals, and selection.json written.
4. The test split is read once, for the selected and the default trials.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxfer import config as configs
from jaxfer import files
from jaxfer.comparison.arms import Arm, arm_config, arms, sources
from jaxfer.comparison.samplers import Grid, Sampler, Setting, ranges
from jaxfer.comparison.starts import Start, make_start, make_starts
from jaxfer.config.experiment import CompareConfig
from jaxfer.data.corruptions import KINDS
from jaxfer.errors import InputError, nearest
from jaxfer.runs import seal
from jaxfer.runs.history import flattened
from jaxfer.sweeps import cells
from jaxfer.sweeps.attempts import mean_val
from jaxfer.sweeps.cells import Cell, Job
from jaxfer.sweeps.executor import Outcome
from jaxfer.training.checked import Preflight
from jaxfer.training.preflight import preflight

RULE = "best mean val score over the seeds, the earlier trial of equals; a trial with a diverged seed is out"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """A comparison, checked and addressed.

    Attributes:
      config: the section `config.compare`.
      arms: scratch first.
      labels: labels a class, or in all where `in_all`, increasing; 0 means all.
      in_all: whether `labels` counts those of all classes together.
      sources: what is run before.
      tuning: {(labels, arm, trial, seed): cell}; of the trials that are known beforehand until `search.py` adds others.
      settings: {(labels, arm, trial): setting}, of the same trials.
      starts: {source: what its arms start from}; under the empty name the base config, which scratch has too.
      record: what protocol.json holds.
      notes: settings of the config file that no arm, or no simple baseline, uses, a line each.
    """

    config: CompareConfig
    arms: tuple[Arm, ...]
    labels: tuple[int, ...]
    sources: tuple[Job, ...]
    starts: Mapping[str, Start]
    tuning: Mapping[tuple[int, str, int, int], Job] = dataclasses.field(default_factory=dict)
    settings: Mapping[tuple[int, str, int], Setting] = dataclasses.field(default_factory=dict)
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    in_all: bool = False

    @property
    def ready(self) -> Preflight:
        """The base config's preflight: the task and the model."""
        return self.starts[""].ready

    @property
    def counted(self) -> str:
        """What `labels` counts, after `5 labels`."""
        return "in all" if self.in_all else "a class"

    def cells(self, labels: int, arm: str, trial: int) -> list[Job]:
        """One trial's cells, by seed."""
        return [self.tuning[labels, arm, trial, seed] for seed in range(self.config.seeds)]

    def members(self) -> Iterator[tuple[int, str, int, int]]:
        """(labels, arm, trial, seed) of every run, in order."""
        names, trials, seeds = [arm.name for arm in self.arms], range(self.config.trials), range(self.config.seeds)
        return itertools.product(self.labels, names, trials, seeds)

    def job(self, labels: int, arm: Arm, trial: int, seed: int, setting: Setting) -> Job:
        """A tuning run; an `InputError` names it."""
        cell = Cell(name=f"{arm.name} {_at(labels)}trial {trial} seed {seed}", group=arm.name)
        start = self.starts[arm.source]
        config = arm_config(start.config, self.config, arm, setting, seed, labels, in_all=self.in_all)
        try:
            # The config is complete, so its cells have nothing left to assume.
            job = cells.address(cell, config, {source.cell.name: source for source in self.sources})
        except InputError as error:
            raise InputError(f"{cell.name}: {error}") from None
        return dataclasses.replace(job, notes=start.assumed)

    def opened(self, job: Job) -> Job:
        """The same cell with its test split: the same run, with one more evaluation."""
        return dataclasses.replace(job, config=configs.override(job.config, {"test": True}), split="test")


def make_design(spec: str, overrides: Mapping[str, Any], sampler: Sampler | None = None) -> Design:
    """Plans what a comparison will run: everything, but for the trials that the sampler (`Grid`) draws meanwhile.

    Raises:
      InputError: whatever `run` would refuse of any of its cells; a base config that is not one transfer, or that opens
        the test split; an override that no arm would use.
    """
    base = configs.load(spec, overrides)
    if base.get("recipe"):
        raise InputError(f"config.recipe={base.recipe!r}: the arms of a comparison are methods; leave it out")
    compare_config, plain = configs.comparison(base), base.to_dict()
    if compare_config.examples or compare_config.fractions:  # of all there are
        base = configs.override(base, {"data.labels_per_class": 0, "data.labels": 0})
    _check_base(base)
    for name in overrides:
        if place := _unused(compare_config).get(name.partition(".")[0] if name.startswith("rates.") else name):
            raise InputError(f"config.{name} has no effect in a comparison; set {place}")
    before = {}
    file = spec.partition(":")[0]
    for cell in cells.preparations(file, overrides):
        before[cell.name] = cells.checked(file, cell, before)
    start, sampler = make_start(base, before), sampler or Grid()
    preflight(configs.override(start.config, {"test": True}))  # only checks that there is a test split
    named = {name: compare_config.sources[name] for name in sources(compare_config)}
    starts, ready = make_starts(base, start, named, before), start.ready
    labels, in_all = _amounts(compare_config, base, ready)
    design = Design(
        config=compare_config,
        arms=arms(compare_config, {name: each.ready.stages[0].spec.port for name, each in starts.items()}, sampler),
        labels=labels,
        in_all=in_all,
        sources=tuple(before.values()),
        starts=starts,
        notes=_notes(compare_config, plain, ready),
    )
    _check_beside(compare_config, ready)
    by_name, tuning, settings = {arm.name: arm for arm in design.arms}, {}, {}
    for count, name, trial, seed in design.members():
        arm = by_name[name]
        if trial < len(arm.trials):
            settings[count, name, trial] = setting = arm.trials[trial]
            tuning[count, name, trial, seed] = design.job(count, arm, trial, seed, setting)
    design = dataclasses.replace(design, tuning=tuning, settings=settings)
    return dataclasses.replace(design, record=_record(design, sampler))


def _record(design: Design, sampler: Sampler) -> dict[str, Any]:
    """What protocol.json holds."""
    chosen = sampler.record
    if chosen:  # the grid's settings say all
        ends = {arm.name: ranges(arm.spaces) for arm in design.arms}
        chosen = {**chosen, "trials": design.config.trials, "ranges": ends}
    return {
        "rule": RULE,
        "arms": {arm.name: [dict(setting) for setting in arm.trials] for arm in design.arms},
        **({"sampler": chosen} if chosen else {}),
        "labels": list(design.labels),
        **({"in_all": True} if design.in_all else {}),
        "seeds": list(range(design.config.seeds)),
        "metric": next(iter(design.tuning.values())).metric,
        "sources": {job.cell.name: job.key for job in design.sources},
        "cells": sorted(job.key for job in design.tuning.values()),
        **({"starts": starts} if (starts := _sections(design)) else {}),
        **({"beside": beside} if (beside := _beside(design.config)) else {}),
    }


def _sections(design: Design) -> dict[str, Any]:
    """{source: the fields that it sets} of those that set more than `init`."""
    named = {name: design.config.sources[name] for name in design.starts if name}
    return {name: flattened(value) for name, value in named.items() if isinstance(value, Mapping)}


def _notes(config: CompareConfig, plain: Mapping[str, Any], ready: Preflight) -> tuple[str, ...]:
    """Settings of the config file that no arm, or no simple baseline, uses."""
    task = ready.experiment.task
    losses = task.options if task.name in ("classification", "multilabel") else ()
    return (
        *(
            f"config.{name}={plain[name]!r} is not used in a comparison; set {place}"
            for name, place in _unused(config).items()
            if name in ("lr", "rates", "seed") and plain[name]
        ),
        *(f"config.task.{name}={value!r}: the simple baselines minimise the plain loss" for name, value in losses),
    )


def _amounts(config: CompareConfig, base: ConfigDict, ready: Preflight) -> tuple[tuple[int, ...], bool]:
    """(the numbers of labels, increasing; whether they count those of all classes together)."""
    train = ready.data.splits["train"]
    shares = tuple(max(1, round(share * len(train))) for share in config.fractions)
    if len(set(shares)) < len(shares):
        found = f"of {len(train):,} examples they are {', '.join(map(str, shares))}"
        raise InputError(f"config.compare.fractions: expected distinct numbers of labels, {found}; leave some out")
    if in_all := config.examples or shares:
        return tuple(sorted(in_all)), True
    return tuple(sorted(config.labels)) or (base.data.get("labels_per_class", 0),), False


def _beside(config: CompareConfig) -> dict[str, Any]:
    """What the config asks for beside the task's metric."""
    asked = {"metrics": list(config.metrics), "severity": config.severity, "retention": config.retention}
    return {name: value for name, value in asked.items() if value}


def _check_beside(config: CompareConfig, ready: Preflight) -> None:
    """`InputError` for a measure that no run of this task on this data has."""
    task, split = ready.stages[0].spec.task, ready.data.splits["val"]
    known = {**(task.metrics or {}), "loss": False}
    for name in config.metrics:
        if name not in known or name == task.monitor:
            what = "is what arms are compared by" if name == task.monitor else "no such metric"
            raise InputError(f"config.compare.metrics: {name!r}: {what}{nearest(name, known)}")
        if name.startswith("worst_group") and split.groups is None:
            raise InputError(f"config.compare.metrics: {name!r} needs groups, which this data doesn't name; remove it")
    if config.severity and split.input[1].kind not in KINDS:
        raise InputError(
            f"config.compare.severity: inputs of kind {split.input[1].kind!r} have no corruptions, only "
            f"{' and '.join(KINDS)} have; set it to 0"
        )


def _unused(config: CompareConfig) -> dict[str, str]:
    """{field that `arm_config` replaces in every arm: the field to set in a comparison}."""
    rate = "config.compare.stage.METHOD.lr, or its grid in config.compare.grid.METHOD.lr"
    amount = next((name for name in ("labels", "examples", "fractions") if getattr(config, name)), None)
    labels = {f"data.{name}": f"config.compare.{amount}" for name in ("labels_per_class", "labels")} if amount else {}
    return {
        "lr": rate,
        "rates": rate,
        "method": "config.compare.methods",
        "seed": "config.compare.seeds, a number of seeds from 0",
        **labels,
    }


def _at(labels: int) -> str:
    return f"{labels} labels " if labels else ""


def _check_base(base: ConfigDict) -> None:
    if base.test:
        raise InputError("config.test: a comparison opens the test split itself, after its selection; leave it false")
    if base.init == "scratch":
        raise InputError("config.init: nothing to transfer from; set a checkpoint, run:FOLDER or sibling:NAME")
    if base.stages:
        raise InputError(f"config.stages={base.stages!r}: name arms in config.compare.methods ('probe+full') instead")


def claim(folder: epath.Path, design: Design) -> None:
    """Writes protocol.json; `InputError` where the folder's selection was made under another protocol."""
    path = folder / seal.PROTOCOL
    if (folder / "cells.json").exists() and not path.exists():
        raise InputError(f"{folder} holds a sweep, whose runs may have read test; use another --workdir")
    record = json.loads(json.dumps(design.record))
    if path.exists() and (folder / seal.SELECTION).exists():
        before = files.read_json(path)
        differing = [name for name in sorted({*before, *record}) if before.get(name) != record.get(name)]
        if differing:
            raise InputError(
                f"{folder} holds a finished selection of another protocol (differing: {', '.join(differing)}); its "
                "test split may have been read, so use another --workdir"
            )
        return
    files.write_json(path, record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selected:
    """The trial chosen for an arm at one label count.

    Attributes:
      labels: labels a class.
      arm: its name.
      trial: the chosen one's number; None where every trial diverged.
      val: mean val score of each trial over the seeds; NaN where one diverged.
    """

    labels: int
    arm: str
    trial: int | None
    val: tuple[float, ...]


def select(design: Design, outcomes: Mapping[str, Outcome]) -> list[Selected]:
    """Selects the trial of each arm that is best on val."""
    selections = []
    for labels in design.labels:
        for arm in design.arms:
            trials = (design.cells(labels, arm.name, trial) for trial in range(design.config.trials))
            means = tuple(mean_val(members, outcomes) for members in trials)
            selections.append(Selected(labels=labels, arm=arm.name, trial=_best(means, design), val=means))
    return selections


def _best(means: tuple[float, ...], design: Design) -> int | None:
    sign = 1 if next(iter(design.tuning.values())).maximize else -1
    finite = [trial for trial, mean in enumerate(means) if not math.isnan(mean)]
    return max(finite, key=lambda trial: (sign * means[trial], -trial), default=None)


def selection_record(
    design: Design, selected: list[Selected], baselines: list[dict[str, Any]]
) -> tuple[dict, list[str]]:
    """(what selection.json says, the runs that it opens): the chosen and the default trial of each arm."""
    opened, chosen = [], []
    for choice in selected:
        trials = {0} if choice.trial is None else {0, choice.trial}
        opened += [p.key for trial in sorted(trials) for p in design.cells(choice.labels, choice.arm, trial)]
        setting = None if choice.trial is None else dict(design.settings[choice.labels, choice.arm, choice.trial])
        chosen.append(
            {
                "labels": choice.labels,
                "arm": choice.arm,
                "trial": choice.trial,
                "setting": setting,
                "val": [None if math.isnan(mean) else mean for mean in choice.val],
            }
        )
    protocol = hashlib.sha256(json.dumps(design.record, sort_keys=True).encode()).hexdigest()
    return {"protocol_sha256": protocol, "rule": RULE, "selected": chosen, "baselines": baselines}, opened
