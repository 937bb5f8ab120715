"""Fills in what a config leaves to the data: the stages of its recipe, and durations in words as steps.

The result is a config without either, so that neither config.json nor anything after this knows of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxfer.config import base, durations, resolve
from jaxfer.config.experiment import Experiment, StageConfig
from jaxfer.config.fields import common_fields
from jaxfer.data.prepare import build
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError, nearest
from jaxfer.models import neck
from jaxfer.models.port import Port
from jaxfer.ports import make_port, port_shapes
from jaxfer.recipe import Facts, Recipe
from jaxfer.registry import METHODS, RECIPES, TASKS
from jaxfer.task import Task
from jaxfer.training import examples, first
from jaxfer.training.checked import Preflight

# Recipes of several stages divide these; any other field that the config sets wins in each stage.
DIVIDED = ("steps", "lr")


class Filled(NamedTuple):
    """The result of `filled`.

    Attributes:
      config: complete but for defaults; without a recipe and without durations in words.
      told: the recipe's name and source, then its reasons, a line each; () without a recipe.
    """

    config: ConfigDict
    told: tuple[str, ...] = ()


def filled(config: ConfigDict, plan: Callable[[ConfigDict], Preflight]) -> Filled:
    """The config with its recipe's stages in place and every duration in steps; most configs as they are.

    Args:
      config: as `jaxfer.load` returns it, its model complete.
      plan: makes a plan of a config that is filled in, for a recipe that goes by what it measures.

    Raises:
      InputError: an unknown recipe or option, stages beside a recipe, or whatever `resolve` and the data refuse.
    """
    name = config.get("recipe")
    if not name and not any(True for _ in durations.places(config)):
        return Filled(config)
    if name and not isinstance(name, str):
        raise InputError(f"config.recipe: expected the name of a recipe, found {name!r}")
    plain = durations.stand_in(_unfilled(config) if name else config)
    plain.profile = ()  # its steps can't be checked yet
    experiment = resolve(plain)
    options = RECIPES.checked(name, dict(config.get("recipe_options", {})), "config.recipe_options") if name else {}
    source = dict(experiment.source.options)
    data = build(experiment.data, source, seed=experiment.run.seed, with_test=experiment.run.test)
    data = examples.with_pool(experiment, data)
    port, task = make_port(experiment, len(data.classes))
    if not name:
        return Filled(_in_steps(config, experiment, data, port))
    count = len(_read(task, data.splits["train"], port))
    common = durations.in_steps(_unfilled(config), {"": count})
    facts = _facts(common, experiment, data, port, count)
    facts = dataclasses.replace(facts, largest_gradient=lambda: first.largest_gradient(plan(common)))
    made = RECIPES.make(name, facts, **options)
    complete = _merged(config, name, made)
    told = (f"recipe {name} ({made.source})", *made.reasons)
    return Filled(_in_steps(complete, experiment, data, port), told)


def _unfilled(config: ConfigDict) -> ConfigDict:
    """A copy without the recipe, and without what it says of stages."""
    if config.get("stages"):
        raise InputError(
            f"config.stages: recipe {config.recipe!r} names the stages, found {tuple(config.stages)}; leave one of the "
            "two out"
        )
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.recipe, config.recipe_options, config.stage = "", ConfigDict(), ConfigDict()
    return config


def _facts(config: ConfigDict, experiment: Experiment, data: Dataset, port: Port, count: int) -> Facts:
    given, defaults = {}, base()
    for field in common_fields():
        value = config.get(field)
        value = value.to_dict() if isinstance(value, ConfigDict) else value
        if value != defaults.get(field) and not (field in ("options", "rates") and not value):
            given[field] = value
    depths = {unit: port.depth(unit) for unit in port.units}
    levels = [tuple(unit for unit in port.units if depths[unit] == depth) for depth in sorted(set(depths.values()))]
    kind = data.splits["train"].input[1].kind
    stage: StageConfig = experiment.stages[0][1]
    return Facts(
        levels=tuple(levels),
        examples=count,
        classes=len(data.classes),
        pretrained=experiment.run.init != "scratch",
        method=stage.method,
        rates=_rates(stage, port),
        batch_size=stage.batch_size,
        steps=config.steps,
        image=_size(data.splits["train"]) if kind == "image" else (),
        batch_norms=bool(port.norms(port_shapes(port)[1]) - {f"{neck.path(port.head)}/norm"}),
        neck=port.neck is not None,
        given=given,
    )


def _rates(stage: StageConfig, port: Port) -> dict[str, float]:
    """{method: its own rate}."""
    structural = {name: value for name, value in stage.options.items() if name in METHODS.schema(stage.method)}
    made = {name: METHODS.make(name, port) for name in ("probe", "full")}
    made[stage.method] = METHODS.make(stage.method, port, **structural)
    return {name: method.hparams["lr"][0] for name, method in made.items() if "lr" in method.hparams}


def _size(split: Split) -> tuple[int, ...]:
    return np.asarray(split.input[1][int(split.rows[0])]).shape[:2]


def _merged(config: ConfigDict, name: str, recipe: Recipe) -> ConfigDict:
    """The config with the recipe's stages, under what the config sets itself."""
    defaults, own = base(), config.get("stage", {})
    for stage in own:
        if stage not in recipe.stages:
            raise InputError(f"config.stage.{stage}: recipe {name!r} has no such stage{nearest(stage, recipe.stages)}")
    complete = _unfilled(config)
    with complete.unlocked():
        complete.stages, complete.filled_by = tuple(recipe.stages), name
    for stage, fields in recipe.stages.items():
        keeps = DIVIDED if len(recipe.stages) > 1 else ()
        wins = {field for field in fields if field not in keeps and config.get(field) != defaults.get(field)}
        wins |= {"lr"} if config.get("rates") and fields.get("method", config.method) == config.method else set()
        wins |= {"schedule_options"} if "schedule" in wins else set()
        mine = {field: value for field, value in fields.items() if field not in wins}
        theirs = own.get(stage, {})
        with complete.stage.unlocked():
            complete.stage[stage] = ConfigDict({**_beside(mine, theirs), **dict(theirs)})
    return complete


def _beside(fields: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's fields without those that can't stand beside the user's own of a stage."""
    pairs = {"rates": "lr", "lr": "rates", "schedule": "schedule_options"}
    taken = {other for field, other in pairs.items() if field in own}
    return {field: value for field, value in fields.items() if field not in taken}


def _in_steps(config: ConfigDict, experiment: Experiment, data: Dataset, port: Port) -> ConfigDict:
    counts = {}
    for name in tuple(config.get("stages") or ()) or ("",):
        task = (config.stage.get(name, {}).get("task") if name else "") or experiment.task.name
        stage = dataclasses.replace(experiment.stages[0][1], task=task)
        few = data.pool is None or examples.reads_labels(experiment, stage)
        split = data.splits["train"] if few else data.pool
        made = TASKS.make(task, **(dict(experiment.task.options) if task == experiment.task.name else {}))
        counts[name] = len(_read(made, split, port))
    return durations.in_steps(config, counts)


def _read(task: Task, split: Split, port: Port) -> Split:
    """The examples that a model reads, as a task may make several of one."""
    return task.expanded(split, port.encodings)
