"""Preflight: a config checked against its data, its model and this machine, before anything is allocated or written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxfer.config import resolve
from jaxfer.data.loader import Feed
from jaxfer.data.prepare import build, opened_once
from jaxfer.errors import InputError
from jaxfer.parallel.placement import placement
from jaxfer.ports import make_port
from jaxfer.pretrained.agreement import described
from jaxfer.runs import tokenizer
from jaxfer.stages import make_stages
from jaxfer.training import adapting, examples, fitting, merging, source_options, streams, teachers
from jaxfer.training.checked import Preflight
from jaxfer.training.filled import filled
from jaxfer.training.fitted import fitted


def preflight(
    config: ConfigDict,
    folder: epath.Path | None = None,
    *,
    place: epath.Path | None = None,
    devices: Sequence[Any] | None = None,
) -> Preflight:
    """Checks everything that can be refused before the first step, except the folder and the starting weights.

    Where `config.init` names a foreign checkpoint, its files describe the model.

    Args:
      config: as `jaxfer.load` returns it.
      folder: the run's, if any: with what it holds, the original checkpoint is no longer needed.
      place: where there is none, the folder that the run would have: `sibling:NAME` is beside it.
      devices: to choose from instead of those present: a topology's, for planning.

    Raises:
      InputError: the first thing that is wrong in the config, the checkpoint's files, the data or for these devices.
    """
    with opened_once():  # a recipe looks at the data first
        return _preflight(config, folder, place, devices)


def _preflight(
    config: ConfigDict, folder: epath.Path | None, place: epath.Path | None, devices: Sequence[Any] | None
) -> Preflight:
    known = described(config, place if folder is None else folder)
    complete = filled(known.config, lambda config: _preflight(config, folder, place, devices))
    experiment, assumed = source_options.completed(resolve(complete.config), folder), known.notes
    run, source = experiment.run, experiment.source
    batches = [("config.batch_size", stage.batch_size, stage.accumulate) for _, stage in experiment.stages]
    names, sizes, slices = zip(*batches, *streams.sizes(experiment), strict=True)
    where = placement(experiment.parallel, sizes, accumulate=slices, names=names, devices=devices)
    data = build(experiment.data, dict(source.options), seed=run.seed, with_test=run.test)
    if folder is not None and data.listed is not None and _inside(folder, data.listed):
        fix = "use a --workdir beside it"
        raise InputError(
            f"{folder} is inside the data folder {str(data.listed)!r}, where it would become a class; {fix}"
        )
    if run.test and "test" not in data.splits:
        raise InputError(f"config.test: data source {source.name!r} has no test split here; set config.test=false")
    data = examples.with_pool(experiment, data)
    port, _ = make_port(experiment, len(data.classes))
    Feed(split=data.splits["train"], encodings=port.encodings).check()
    experiment, whole = fitted(experiment, port, data.pool or data.splits["train"], folder)
    port, task = make_port(whole, len(data.classes))
    port = port if folder is None else tokenizer.at_home(port, folder)
    for name, split in data.splits.items():
        Feed(split=split, encodings=port.encodings).check(experiment.data.augment if name == "train" else ())
    assumed += tokenizer.check(port, own=known.own_tokenizer)
    task.expanded(data.splits["train"].take(np.arange(1)), port.encodings)  # refuses data of another task
    data = streams.with_streams(experiment, data)
    stages = make_stages(experiment, port, task, len(data.classes), streams.classes(experiment, data))
    stages, unstated = teachers.equipped(stages, experiment, data, folder)
    assumed += unstated + streams.check(experiment, data, stages, where)
    where.check(stages)
    adapting.check(stages, where, run.eval_batch_size)
    for _, config in experiment.stages:
        examples.check_target(experiment, config, data)
    fitting.check(experiment, stages, where)
    merging.check(experiment, stages)
    final = dataclasses.replace(experiment, stages=tuple((stage.name, stage.config) for stage in stages))
    return Preflight(
        experiment=final,
        data=data,
        stages=stages,
        where=where,
        spare=len(jax.devices() if devices is None else devices) - where.size,
        assumed=assumed,
        checkpoint=known.checkpoint,
        recipe=complete.told,
    )


def _inside(folder: epath.Path, root: Path) -> bool:
    """Whether the folder, which need not exist, is `root` or lies below it on this machine."""
    return "://" not in str(folder) and Path(folder).resolve().is_relative_to(root.resolve())
