"""Preflight: a config checked against its data, its model and this machine, before anything is allocated or written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from jaxfer.config import resolve
from jaxfer.config.experiment import Experiment
from jaxfer.data.encodings.spec import TextPreprocessing
from jaxfer.data.encodings.text import load_tokenizer
from jaxfer.data.loader import check_kind
from jaxfer.data.prepare import build
from jaxfer.data.split import Dataset
from jaxfer.errors import InputError
from jaxfer.parallel.placement import Placement, placement
from jaxfer.pretrained.agreement import completed
from jaxfer.runs import tokenizer
from jaxfer.stages import Stage, make_port, plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preflight:
    """What `run`, `show` and `sweep` go by.

    Attributes:
      experiment: the config with every default filled in, the methods' among them.
      data: its splits; `test` only where the config opens it.
      stages: what each stage does to which parameter.
      where: the devices.
      spare: how many more there are.
    """

    experiment: Experiment
    data: Dataset
    stages: tuple[Stage, ...]
    where: Placement
    spare: int = 0

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.stages[-1].stop

    def notes(self) -> tuple[str, ...]:
        """What a user should know and need not change, a line each."""
        idle = (
            f"{self.spare} of {self.spare + self.where.size} devices stay idle: the batch size is no multiple of more"
        )
        said = (idle,) if self.spare and not self.experiment.parallel.devices else ()
        notes = (note for stage in self.stages for note in (*stage.notes, *self.where.notes(stage)))
        return (*said, *self.data.notes, *dict.fromkeys(notes))


def preflight(
    config: ConfigDict, folder: epath.Path | None = None, *, devices: Sequence[Any] | None = None
) -> Preflight:
    """Everything that can be refused before the first step but the folder and the weights to start from.

    Where `config.init` names a checkpoint of somebody else's, the model is the one that its files describe.

    Args:
      config: as `jaxfer.load` returns it.
      folder: of the run, where there is one: what it holds needs no checkpoint to be still there.
      devices: those to choose from in place of the ones here: a topology's, for planning.

    Raises:
      InputError: the first thing that is wrong in the config, the checkpoint's files, the data or for these devices.
    """
    experiment = resolve(completed(config, folder))
    run, source = experiment.run, experiment.source
    sizes, slices = ([getattr(s, name) for _, s in experiment.stages] for name in ("batch_size", "accumulate"))
    where = placement(experiment.parallel, sizes, accumulate=slices, devices=devices)
    data = build(experiment.data, dict(source.options), seed=run.seed, with_test=run.test)
    if run.test and "test" not in data.splits:
        raise InputError(f"config.test: data source {source.name!r} has no test split here; set config.test=false")
    port, task = make_port(experiment, len(data.classes))
    port = port if folder is None else tokenizer.at_home(port, folder)
    check_kind(data.splits["train"], port.preprocessing, experiment.data.augment)
    if isinstance(port.preprocessing, TextPreprocessing):
        load_tokenizer(port.preprocessing)
        tokenizer.check(port)
    stages = plan(experiment, port, task)
    where.check(stages)
    complete = dataclasses.replace(experiment, stages=tuple((stage.name, stage.config) for stage in stages))
    spare = len(jax.devices() if devices is None else devices) - where.size
    return Preflight(experiment=complete, data=data, stages=stages, where=where, spare=spare)
