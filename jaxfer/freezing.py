"""Which parameters of a stage are trained, in which group, and which norms move, by the method and the config."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxfer import rules
from jaxfer.config.experiment import StageConfig
from jaxfer.errors import InputError, NothingTrained, RuleError
from jaxfer.method import FROZEN, Method
from jaxfer.models.execution import PLAIN
from jaxfer.models.port import Port, Training
from jaxfer.ports import port_shapes
from jaxfer.step import StepSpec


def norm_modes(config: StageConfig, port: Port, where: str) -> dict[str, str]:
    """{norm with running statistics: `eval`, `stats_only` or `train`}, as `config.norms` says; else `train`."""
    norms = sorted(port.norms(port_shapes(port)[1]))
    return rules.resolve(config.norms, norms, defaults=((".*", "train"),), what=f"{where}.norms rule")


def dropout_rates(config: StageConfig, port: Port, where: str) -> tuple[tuple[str, float], ...]:
    """(path of a dropout module, rate) of those whose rate `config.dropout_rules` change."""
    if not config.dropout_rules:
        return ()
    what = f"{where}.dropout_rules pattern"
    rates = rules.resolve(config.dropout_rules, port.dropouts, defaults=((".*", None),), what=what)
    return tuple((path, rate) for path, rate in rates.items() if rate is not None)


def check_dropout(config: StageConfig, spec: StepSpec, where: str) -> None:
    """`InputError` if the method compares passes that differ by dropout, and a training pass drops nothing."""
    port, acting = dataclasses.replace(spec.port, execution=PLAIN), []

    def watch(next_fun, args, kwargs, context):
        outputs = next_fun(*args, **kwargs)
        if isinstance(context.module, nn.Dropout) and context.method_name == "__call__" and outputs is not args[0]:
            acting.append(context.module.path)
        return outputs

    def whole(key, params, model_state, batch):
        training = Training(key=key, live=spec.live, eval_norms=spec.eval_norms, dropout=spec.dropout)
        return port.apply(params, model_state, batch, training=training, intercept=watch)

    if spec.method.dropout:
        jax.eval_shape(whole, jax.random.key(0), *port_shapes(port), port.example(2))
        if not acting:
            raise InputError(
                f"{where}.method: {config.method!r} compares two passes that differ by dropout alone, and this stage "
                f"drops nothing; set {where}.dropout_rules=((.*, 0.1),)"
            )


def check_averages(stages: Sequence[Any], *, named: bool) -> None:
    """`InputError` where a stage averages parameters, norms keep statistics of the last ones, and the next stage does
    not count them anew; `named`: whether the config names its stages."""
    for stage, after in itertools.zip_longest(stages, stages[1:]):
        moving = stage.spec.port.norms(stage.shapes[1]) - stage.spec.eval_norms
        counted = after is not None and after.spec.method.norms_alone
        if stage.spec.method.still_norms and moving and not counted:
            where = f"config.stage.{stage.name}" if named else "config"
            raise InputError(
                f"{where}.adds: {stage.config.named} averages parameters of many steps, and the statistics of "
                f"{min(moving)} follow the last ones; set {where}.norms=((.*, eval),), add a stage after it that "
                "counts them anew (adabn, examples=training), or leave the add-on out"
            )


def groups_of(
    config: StageConfig, method: Method, port: Port, params: Any, norms: Mapping[str, str], where: str
) -> dict[str, str]:
    """{path: group or FROZEN}; the config's freezing takes precedence over the method's rules."""
    paths = list(rules.flatten(params))
    # A model with the head `embedding` has no layer for what methods say of the head.
    absent = () if any(path.startswith(f"{port.head}/") for path in paths) else (f"{port.head}/.*",)
    names = {group for pattern, group in method.rules if pattern not in absent} - {FROZEN}
    levels = sorted({port.depth(unit) for unit in port.units}, reverse=True)  # two towers have two units on one
    if config.freeze_units >= len(levels):
        raise InputError(f"{where}.freeze_units: the model is {len(levels)} units deep, found {config.freeze_units}")
    before = rules.resolve((), paths, defaults=method.rules, what=f"rule of method {config.method!r}")
    for group in sorted(names - set(before.values())):
        raise RuleError(f"method {config.method!r}: group {group!r} holds no parameter of this model")
    patterns = tuple((pattern, FROZEN) for pattern in config.freeze)
    groups = rules.resolve(patterns, paths, defaults=method.rules, what="freeze rule")
    bottom = levels[: config.freeze_units]
    still = {path for path in paths if norms.get(path.rsplit("/", 1)[0]) == "stats_only"}
    frozen = {path for path in paths if port.depth(path) in bottom} | still
    groups = {path: FROZEN if path in frozen else group for path, group in groups.items()}
    if set(groups.values()) == {FROZEN} and not method.norms_alone:
        message = f"{where}: everything is frozen, nothing would be trained; loosen freeze or freeze_units"
        raise NothingTrained(message, where)
    if config.rates and set(config.rates) != names:
        raise InputError(
            f"{where}.rates: expected a rate for each group of method {config.method!r} ({', '.join(sorted(names))}), "
            f"found {', '.join(sorted(config.rates))}"
        )
    return groups


def notes(
    config: StageConfig,
    method: Method,
    groups: Mapping[str, str],
    spec: StepSpec,
    moving: int,
    where: str,
    *,
    fresh_head: bool,
) -> Iterator[str]:
    """Notes on fields without effect, or with another than meant. No errors: a sweep gives one rule to many methods."""
    before = rules.resolve((), groups, defaults=method.rules)
    if (at_once := method.at_once) is not None:
        yield (
            f"{where}: {at_once.does}, which counts as one step; steps"
            f"{'' if at_once.reads_batches else ', batch_size'} and the optimizer's fields are not read"
        )
    for pattern in config.freeze:
        hits = rules.select((pattern,), groups)
        if all(before[path] == FROZEN for path in hits):
            yield f"{where}.freeze: {pattern!r} claims only what method {config.method!r} freezes anyway"
    if config.accumulate > 1 and moving:
        yield (
            f"{where}.accumulate: {moving} norms take their batch statistics from {config.accumulate} slices of "
            f"{config.batch_size // config.accumulate} examples, not from the {config.batch_size} of the batch"
        )
    if method.decays and config.weight_decay:
        yield (
            f"{where}.weight_decay: {config.weight_decay:g} pulls to zero what {config.method!r} pulls to the start; 0 "
            "leaves its own pull alone"
        )
    for field in ("lr_rules", "decay_rules"):
        for pattern, _ in getattr(config, field):
            if all(groups[path] == FROZEN for path in rules.select((pattern,), groups)):
                yield f"{where}.{field}: {pattern!r} claims only frozen parameters"
    for pattern, _ in config.dropout_rules:
        if not any(path.split("/")[0] in spec.live for path, _ in spec.dropout if re.fullmatch(pattern, path)):
            yield f"{where}.dropout_rules: {pattern!r} claims only modules of frozen units, where nothing is dropped"
    if fresh_head and method.measure is not None and method.source_outputs is None:
        yield (
            f"{where}.method: {config.method!r} measures with the head that the stage begins with; unless the source's "
            "is kept, let a stage of probe train it first"
        )
