"""Durations in words: `10epochs`, `50000examples` and `10%` in fields that count steps.

A config may hold them; an `Experiment` never does. They become steps once the number of training examples is known,
and config.json holds steps.
"""

from __future__ import annotations

import fractions
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from jaxfer.errors import InputError

# Fields that count steps: of a stage, of the whole run.
STAGE, RUN = ("steps", "warmup"), ("eval_every", "save_every", "log_every")
_PATTERN = re.compile(r"(\d+(?:\.\d+)?) ?(epochs?|examples?|%)")


class Steps(FieldReference):
    """A field of a config that a file may assign an int or a duration in words."""

    def set(self, value: Any, type_safe: bool = True) -> None:
        super().set(value, type_safe and not said(value))


def said(value: Any) -> bool:
    """Whether a value is a duration in words."""
    return isinstance(value, str) and _PATTERN.fullmatch(value) is not None


def steps(text: str, where: str, *, examples: int, batch_size: int, whole: int | None = None) -> int:
    """A duration in steps, rounded up: `2epochs` of 100 examples in batches of 32 are 7.

    Args:
      text: a duration in words.
      where: what errors call the field.
      examples: training examples of an epoch.
      batch_size: examples per step.
      whole: steps that a percentage is of; None where there is nothing to take it of.

    Raises:
      InputError: a percentage of nothing.
    """
    number, unit = _PATTERN.fullmatch(text).groups()
    amount = fractions.Fraction(number)  # 0.1 of 30 is 3, which floats would make 4
    if unit == "%":
        if whole is None:
            raise InputError(f"{where}: expected steps, epochs or examples, found {text!r}; it has no whole to be of")
        return math.ceil(amount * whole / 100)
    return math.ceil(amount * (examples if unit.startswith("epoch") else 1) / batch_size)


def places(config: ConfigDict) -> Iterator[tuple[str, ConfigDict, str, str]]:
    """(dotted field, its section, its name, its words) of every duration in words."""
    for field in (*STAGE, *RUN):
        if said(config.get(field)):
            yield field, config, field, config[field]
    stages = config.get("stage")
    for name, stage in stages.items() if isinstance(stages, ConfigDict) else ():  # `resolve` refuses anything else
        for field in STAGE:
            if isinstance(stage, ConfigDict) and said(stage.get(field)):
                yield f"stage.{name}.{field}", stage, field, stage[field]


def stand_in(config: ConfigDict) -> ConfigDict:
    """A copy that resolves although its durations are not known yet: all that do not depend on them are checked."""
    config = config.copy_and_resolve_references()
    for _, section, field, _ in list(places(config)):
        _put(section, field, {"warmup": 0, "eval_every": 0, "save_every": 0}.get(field, 1))
    return config


def in_steps(config: ConfigDict, examples: Mapping[str, int]) -> ConfigDict:
    """A copy whose durations are steps.

    A stage's `warmup` may be a percentage of its steps, `eval_every` and its like one of the whole run's.

    Args:
      config: the user's, its stages named.
      examples: {stage: training examples}; "" where the config names none.

    Raises:
      InputError: a percentage of nothing, or epochs of a run whose stages have batches of several sizes.
    """
    config = config.copy_and_resolve_references()
    names, found = tuple(config.get("stages") or ()), {place: text for place, *_, text in places(config)}
    if names:  # a common duration is another number of steps in each stage
        for field in STAGE:
            for name in names if field in found else ():
                if field not in _stage(config, name):
                    _put(_stage(config, name), field, config[field])
            if field in found:
                _put(config, field, {"steps": 1, "warmup": 0}[field])
    for name in names or ("",):
        stage = _stage(config, name) if name else config
        known = {"examples": examples[name], "batch_size": stage.get("batch_size", config.batch_size)}
        where = f"config.stage.{name}" if name else "config"
        if said(stage.get("steps")):
            _put(stage, "steps", max(1, steps(stage.steps, f"{where}.steps", **known)))
        if said(stage.get("warmup")):
            whole = stage.get("steps", config.steps)
            _put(stage, "warmup", steps(stage.warmup, f"{where}.warmup", **known, whole=whole))
    stages = [_stage(config, name) for name in names] or [config]
    whole = sum(stage.get("steps", config.steps) for stage in stages)
    sizes = {
        (stage.get("batch_size", config.batch_size), examples[name])
        for name, stage in zip(names or ("",), stages, strict=True)
    }
    for field in RUN:
        if said(text := config.get(field)):
            if len(sizes) > 1 and not text.endswith("%"):
                raise InputError(
                    f"config.{field}: {text!r} is another number of steps in each stage; give it in steps or in %"
                )
            (size, count), *_ = sizes
            _put(config, field, max(1, steps(text, f"config.{field}", examples=count, batch_size=size, whole=whole)))
    return config


def _stage(config: ConfigDict, name: str) -> ConfigDict:
    if name not in config.stage:
        with config.stage.unlocked():
            config.stage[name] = ConfigDict()
    return config.stage[name]


def _put(section: ConfigDict, field: str, value: Any) -> None:
    with section.unlocked(), section.ignore_type():
        section[field] = value
