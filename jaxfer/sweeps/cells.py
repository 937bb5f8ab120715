"""The cells of a sweep: runs, each addressed by its config, its data and the code that computes it.

A cell's folder is the hash of its identity. So a sweep that grew, was reordered or killed finds what is done; cells of
another config, data set or code never stand in for it; and two cells that are the same run are run once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxfer import config as configs
from jaxfer.errors import InputError, nearest
from jaxfer.pretrained import starting
from jaxfer.pretrained.agreement import followed
from jaxfer.sweeps.code import code_version
from jaxfer.training import members
from jaxfer.training.checked import Preflight
from jaxfer.training.preflight import preflight
from jaxfer.training.streams import fingerprints

FOLDER = "cells"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep, as a config's `sweep()` yields it (a plain dict is a cell with these overrides).

    Attributes:
      name: what `init=sibling:NAME` and messages call it; empty: from its overrides.
      arg: what `get_config` is called with.
      overrides: {"a.b": value} on top.
      group: the row of the table it counts for (seeds of one method); empty for a preparation (a source to start
        from), which is run before and left out of the table. Of the command line's overrides it gets those of
        `model`, `parallel` and logging alone.
    """

    name: str = ""
    arg: str = ""
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    group: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A cell, checked and addressed.

    Attributes:
      cell: as it was asked for; its name is filled in.
      key: its address, 16 hexadecimal digits.
      config: what is run, complete.
      sources: keys of the cells it starts from or learns from.
      programs: hashable, one for each compiled training step it needs.
      examples: that it trains on, each as often as it does.
      split: `test` where its config opens it, else `val`.
      metric: the task's own.
      maximize: whether more of it is better.
      notes: what is assumed of its checkpoint, a line each.
      alike: equal for cells that differ in scalars and seeds alone and can be trained in one program; empty for one
        that can't be.
    """

    cell: Cell
    key: str
    config: ConfigDict
    sources: tuple[str, ...]
    programs: tuple[Any, ...]
    examples: int
    split: str
    metric: str
    maximize: bool
    notes: tuple[str, ...] = ()
    alike: str = ""


def expand(spec: str, overrides: Mapping[str, Any] | None = None) -> tuple[Cell, ...]:
    """The cells of a config file's `sweep()`, named and with the command line's overrides applied.

    Args:
      spec: `FILE`, or `FILE:ARG` for `sweep(arg)`; ARG is also that of cells without one.
      overrides: of the command line.

    Raises:
      InputError: no `sweep()`, one without an argument where there is ARG, no cells, or two of one name.
    """
    module, arg = configs.load_module(spec)
    if not hasattr(module, "sweep"):
        raise InputError(f"{spec}: expected a config file with sweep(), found none")
    if arg and not _reads_argument(module.sweep):
        raise InputError(f"{spec}: its sweep() takes no argument, found {arg!r}; leave it out, or define sweep(arg)")
    configs.check_overrides(overrides or {})
    cells = _cells(module, spec, arg, overrides or {})
    if not any(cell.group for cell in cells):
        raise InputError(f"{spec}: sweep() yields no cell with a group, so there would be no table; yield some")
    return cells


def preparations(spec: str, overrides: Mapping[str, Any]) -> tuple[Cell, ...]:
    """The cells of `sweep()` that others start from; none where the file has no sweep."""
    module, arg = configs.load_module(spec)
    return tuple(cell for cell in _cells(module, spec, arg, overrides) if not cell.group)


def _cells(module: ModuleType, spec: str, arg: str, overrides: Mapping[str, Any]) -> tuple[Cell, ...]:
    given = (arg,) if _reads_argument(getattr(module, "sweep", None)) else ()
    yielded = configs.called(module, spec, "sweep", *given) if hasattr(module, "sweep") else ()
    if isinstance(yielded, (str, Mapping)) or not isinstance(yielded, Iterable):
        raise InputError(f"{spec}: sweep() must yield jaxfer.sweeps.Cell or dicts of overrides, returned {yielded!r}")
    cells = [_named(cell, spec) for cell in yielded]
    if given:
        cells = [cell if cell.arg else dataclasses.replace(cell, arg=arg) for cell in cells]
    names = [cell.name for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{spec}: sweep() yields two cells called {name!r}; name each once")
    return tuple(dataclasses.replace(cell, overrides={**cell.overrides, **_for(cell, overrides)}) for cell in cells)


def _reads_argument(sweep: Any) -> bool:
    return callable(sweep) and bool(inspect.signature(sweep).parameters)


def _named(cell: Cell | Mapping[str, Any], spec: str) -> Cell:
    if isinstance(cell, Mapping):
        _check_names(cell, spec)
        cell = Cell(overrides=dict(cell), group=_label({k: v for k, v in cell.items() if k != "seed"}) or "all")
    if not isinstance(cell, Cell):
        raise InputError(f"{spec}: sweep() must yield jaxfer.sweeps.Cell or dicts of overrides, found {cell!r}")
    for field in ("name", "arg", "group"):
        if not isinstance(getattr(cell, field), str):
            value = getattr(cell, field)
            raise InputError(f"{spec}: sweep() yields a Cell whose {field} is {value!r}; expected text")
    if not isinstance(cell.overrides, Mapping):
        raise InputError(f"{spec}: sweep() yields a Cell whose overrides are {cell.overrides!r}; expected a dict")
    _check_names(cell.overrides, spec)
    label = ",".join(part for part in (cell.arg, _label(cell.overrides)) if part)
    return dataclasses.replace(cell, name=cell.name or label or "base")


def _check_names(overrides: Mapping[Any, Any], spec: str) -> None:
    for name in overrides:
        if not isinstance(name, str):
            raise InputError(f"{spec}: sweep() yields overrides of {name!r}; expected the dotted name of a field")


def _label(overrides: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in overrides.items())


def _for(cell: Cell, overrides: Mapping[str, Any]) -> dict[str, Any]:
    common = ("model.", "parallel.", "log_every", "save_every")
    return {name: value for name, value in overrides.items() if cell.group or name.startswith(common)}


def make_jobs(spec: str, cells: Iterable[Cell]) -> tuple[Job, ...]:
    """Checks and addresses every cell before any is run.

    Raises:
      InputError: a cell's config is wrong (the message names the cell), or one starts from a cell that is not before
        it, or cells differ in what the table would show.
    """
    jobs: dict[str, Job] = {}
    for cell in cells:
        jobs[cell.name] = checked(spec, cell, jobs)
    shown = {(p.split, p.metric) for p in jobs.values() if p.cell.group}
    if len(shown) > 1:
        metrics = ", ".join(sorted(f"{split} {metric}" for split, metric in shown))
        raise InputError(
            f"the cells of one table must share task and test, found {metrics}; split them into two sweeps"
        )
    return tuple(jobs.values())


def checked(spec: str, cell: Cell, before: Mapping[str, Job]) -> Job:
    """Checks and addresses one cell of a config file; an `InputError` names the cell."""
    try:
        named = f"{spec.partition(':')[0]}:{cell.arg}" if cell.arg else spec
        return address(cell, configs.load(named, cell.overrides), before)
    except InputError as error:
        raise InputError(f"cell {cell.name!r}: {error}") from None


def address(cell: Cell, config: ConfigDict, before: Mapping[str, Job]) -> Job:
    """Checks and addresses one cell; `init=sibling:NAME` becomes the address of cell NAME, part of this one's; so does
    a network of `config.networks`."""
    sources = []
    config = follow(config, before)
    named = {"init": config.init, **{f"networks.{name}": value for name, value in config.get("networks", {}).items()}}
    for field, value in named.items():
        kind, _, name = str(value).partition(":")
        if kind == "sibling":
            if name not in before:
                raise InputError(f"config.{field}={value}: no cell of that name before it{nearest(name, before)}")
            sources.append(before[name].key)
            config = configs.override(config, {field: f"sibling:{before[name].key}"})
        if kind == "run":
            starting.source_folder(value, epath.Path("."), f"config.{field}")
    ready = preflight(config)
    task = ready.stages[-1].spec.task
    return Job(
        cell=cell,
        key=identity_hash(ready),
        config=ConfigDict(ready.experiment.to_dict()),
        sources=tuple(sources),
        programs=tuple((stage.spec, stage.config.batch_size) for stage in ready.stages),
        examples=sum(stage.config.steps * stage.config.batch_size for stage in ready.stages),
        split="test" if ready.experiment.run.test else "val",
        metric=task.monitor,
        maximize=task.maximize,
        notes=ready.assumed,
        alike=_alike(ready),
    )


def follow(config: ConfigDict, before: Mapping[str, Job]) -> ConfigDict:
    """The config with what its model leaves out as in the cell that `config.init` names, done or not."""
    kind, _, cell = str(config.init).partition(":")
    if kind != "sibling" or cell not in before or not isinstance(config.get("model"), ConfigDict):
        return config
    source, options = before[cell].config.model.to_dict(), dict(config.model)
    name, options = followed(source, options.pop("name", None), options, tuple(config.get("differs") or ()))
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.model = ConfigDict({**options, "name": name})
    return config


def _alike(ready: Preflight) -> str:
    experiment, (stage, *more) = ready.experiment, ready.stages
    if more or not members.possible(stage, ready.where, experiment):
        return ""
    # From scratch, the seed makes what is frozen too.
    seed = experiment.run.seed if experiment.run.init == "scratch" and stage.spec.frozen else 0
    fixed = dataclasses.replace(
        experiment, run=dataclasses.replace(experiment.run, seed=seed), stages=(), task_hparams={}
    )
    return hashlib.sha256(f"{stage.spec} {stage.config.batch_size} {stage.stop} {fixed}".encode()).hexdigest()[:16]


def identity_hash(ready: Preflight) -> str:
    """16 hexadecimal digits of the sha256 of (complete config, data, source's weights, code)."""
    experiment, init, networks = ready.experiment, ready.experiment.run.init, ready.experiment.networks
    identity = {
        "config": experiment.identity(),
        "steps": experiment.stages[-1][1].steps,  # no part of a run's own identity: a run may be extended, a cell not
        "data": ready.data.fingerprint,
        "source": _sha256(init),
        **({"networks": {name: _sha256(value) for name, value in networks}} if networks else {}),
        "code": code_version(experiment),
        **({"streams": dict(fingerprints(ready.data))} if ready.data.streams else {}),
    }
    text = json.dumps(identity, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sha256(init: str) -> str | None:
    """Of the weights; None for a sibling, whose identity is in its name."""
    return None if init.startswith("sibling:") else starting.source_sha256(init, epath.Path("."))


def index(jobs: Sequence[Job], statuses: Mapping[str, str]) -> list[dict[str, Any]]:
    """The contents of cells.json: each cell's name, row, address, arguments and status."""
    return [
        {
            "name": p.cell.name,
            "group": p.cell.group,
            "folder": f"{FOLDER}/{p.key}",
            "arg": p.cell.arg,
            "overrides": dict(p.cell.overrides),
            "status": statuses.get(p.key, "waiting"),
        }
        for p in jobs
    ]
