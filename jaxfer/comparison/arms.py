"""The arms of a comparison: a method, or several in turn (`probe+full`), with its source and the settings to try."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxfer.comparison.samplers import Grid, Sampler, Setting, Spaces
from jaxfer.config import override
from jaxfer.config.experiment import CompareConfig, StageConfig
from jaxfer.errors import InputError, nearest
from jaxfer.models.port import Port
from jaxfer.registry import METHODS
from jaxfer.schema import check
from jaxfer.stages import make_method

SCRATCH = "scratch"
# Fresh weights want larger rates than pretrained ones; tuned on the grid for fine-tuning, scratch would be a straw man.
SCRATCH_LR = (1e-3, (3e-4, 1e-3, 3e-3, 1e-2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training.

    Attributes:
      name: as the config has it; `scratch` is full training of fresh parameters.
      stages: its methods, in order.
      trials: the settings that are known beforehand, the default first: {hparam: value}, `stage.hparam` where there are
        several stages.
      spaces: {hparam: values, the default first}, which settings are taken from.
      source: the name of the source it starts from; empty: the config's own.
    """

    name: str
    stages: tuple[str, ...]
    trials: tuple[Setting, ...]
    spaces: Spaces
    source: str = ""


def sources(config: CompareConfig) -> tuple[str, ...]:
    """Names of the sources that arms start from, beside the config's own. Raises `InputError` for an unknown one."""
    used = []
    for name in config.methods:
        _, at, source = name.partition("@")
        if at and source not in config.sources:
            raise InputError(
                f"config.compare.methods: the source of {name!r} is not in config.compare.sources"
                f"{nearest(source, config.sources)}; add it there"
            )
        used += [source] if at else []
    return tuple(dict.fromkeys(used))


def arms(config: CompareConfig, ports: Mapping[str, Port], sampler: Sampler | None = None) -> tuple[Arm, ...]:
    """Scratch, then the methods as the config lists them, each with as many trials, which the sampler chooses (`Grid`).

    Args:
      config: what is compared.
      ports: {source: the model of its arms}; under the empty name the config's own, which scratch has too.
      sampler: of the settings.

    Raises:
      InputError: an unknown method, source or hparam, a grid of the wrong type, or one with fewer settings than trials.
    """
    known = {
        SCRATCH,
        *METHODS.names(),
    }  # also methods that are not compared: a config may list more than a command asks
    for field in ("stage", "grid"):
        for name in getattr(config, field):
            if name not in known:
                raise InputError(f"config.compare.{field}.{name}: no such method{nearest(name, known)}")
    return tuple(_arm(name, config, ports, sampler or Grid()) for name in (SCRATCH, *config.methods))


def _arm(name: str, config: CompareConfig, ports: Mapping[str, Port], sampler: Sampler) -> Arm:
    methods, _, source = name.partition("@")
    stages = ("full",) if name == SCRATCH else tuple(methods.split("+"))
    if len(set(stages)) < len(stages):
        raise InputError(f"config.compare.methods: {name!r} repeats a stage; name each once")
    spaces = {}
    for stage in stages:
        for hparam, space in _space(SCRATCH if name == SCRATCH else stage, stage, config, ports[source]).items():
            spaces[hparam if len(stages) == 1 else f"{stage}.{hparam}"] = space
    trials = sampler.trials(name, spaces, config.trials)
    return Arm(name=name, stages=stages, trials=trials, spaces=spaces, source=source)


def _space(owner: str, stage: str, config: CompareConfig, port: Port) -> dict[str, tuple[float, ...]]:
    """{hparam: values, the default first} for one method; the config takes precedence over the method. Hparams of its
    add-ons are tuned where the config gives them a grid."""
    stage_config = config.stage.get(owner, {})
    options, where = dict(stage_config.get("options", {})), f"config.compare.stage.{owner}"
    adds = tuple(stage_config.get("adds", ()))
    method = make_method(StageConfig(method=stage, options=options, adds=adds), port, where)
    structural = {name: value for name, value in options.items() if name in METHODS.schema(stage)}
    own = make_method(StageConfig(method=stage, options=structural), port, where).hparams
    tuned = {*own, *config.grid.get(owner, {})}
    hparams = {name: space for name, space in method.hparams.items() if name in tuned}
    hparams |= {"lr": SCRATCH_LR} if owner == SCRATCH else {}
    chosen = {**options, **({"lr": stage_config["lr"]} if stage_config.get("lr") is not None else {})}
    grids = config.grid.get(owner, {})
    for hparam in grids:
        if hparam not in hparams:
            known = f"only {', '.join(hparams)}" if hparams else "nothing; remove it"
            raise InputError(f"config.compare.grid.{owner}.{hparam}: {owner} can tune {known}")
    spaces = {}
    for hparam, (default, grid) in hparams.items():
        default = float(chosen.get(hparam, default))
        where = f"config.compare.grid.{owner}.{hparam}"
        spaces[hparam] = tuple(dict.fromkeys((default, *check(grids.get(hparam, grid), tuple[float, ...], where))))
    return spaces


def arm_config(
    base: ConfigDict,
    compare_config: CompareConfig,
    arm: Arm,
    setting: Setting,
    seed: int,
    labels: int,
    *,
    in_all: bool = False,
) -> ConfigDict:
    """The config that an arm starts from with its changes: same batch, schedule and number of steps for every arm."""
    changes: dict[str, Any] = {"seed": seed, "lr": None, "rates": {}}
    changes |= {"data.labels_per_class": 0, "data.labels": labels} if in_all else {"data.labels_per_class": labels}
    if arm.name == SCRATCH:
        changes["init"] = SCRATCH
    for at, stage in enumerate(arm.stages):
        owner, count = SCRATCH if arm.name == SCRATCH else stage, len(arm.stages)
        prefix, hparam = (f"stage.{stage}.", f"{stage}.") if count > 1 else ("", "")
        changes[f"{prefix}method"] = stage
        if count > 1:
            changes[f"{prefix}steps"] = base.steps * (at + 1) // count - base.steps * at // count
        changes |= {f"{prefix}{field}": value for field, value in _fields(owner, compare_config)}
        stage_setting = {name.removeprefix(hparam): value for name, value in setting.items() if name.startswith(hparam)}
        changes |= {
            f"{prefix}lr" if name == "lr" else f"{prefix}options.{name}": value for name, value in stage_setting.items()
        }
    if len(arm.stages) > 1:
        changes["stages"] = arm.stages
    return override(base, changes)


def _fields(owner: str, config: CompareConfig) -> list[tuple[str, Any]]:
    """The fields that the config gives a method, an option as `options.NAME`."""
    fields = dict(config.stage.get(owner, {}))
    for field in ("steps", "batch_size", "method"):
        if field in fields:
            raise InputError(f"config.compare.stage.{owner}.{field}: the same for every arm; set config.{field}")
    options = fields.pop("options", {})
    return [*fields.items(), *((f"options.{name}", value) for name, value in options.items())]
