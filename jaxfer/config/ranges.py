"""What is out of range in a config whose fields have the right types."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxfer.config.experiment import CompareConfig, Experiment, InitOptions, StageConfig
from jaxfer.errors import InputError, nearest
from jaxfer.optim.clipping import CLIPS
from jaxfer.optim.optimizers import OPTIMIZERS
from jaxfer.optim.schedules import SCHEDULES
from jaxfer.schema import LARGEST

DTYPES = ("float32", "bfloat16")
NORMS = ("eval", "stats_only", "train")

# Constraints of `check_ranges` by field name, in any section: choices, least value, exclusive upper bound.
_CHOICES = {
    "head": ("auto", "keep", "reset", "prompts"),
    "select": ("last", "best"),
    "monitor_mode": ("auto", "max", "min"),
    "mode": ("jit", "fsdp", "tensor", "pmap"),
    "attention": ("auto", "plain"),
    "compute_dtype": DTYPES,
    "momentum_dtype": DTYPES,
    "optimizer": tuple(OPTIMIZERS),
    "schedule": tuple(SCHEDULES),
    "clip_mode": tuple(CLIPS),
    "rows": ("own", "same", "pairs"),
    "cache": ("auto", "off", "views"),
    "cache_dtype": DTYPES,
}
_LEAST = {
    **dict.fromkeys(
        ("steps", "batch_size", "eval_batch_size", "log_every", "accumulate", "fsdp", "tensor", "views", "keep_best"), 1
    ),
    **dict.fromkeys(
        ("seed", "eval_every", "save_every", "devices", "warmup", "freeze_units", "patience", "min_delta"), 0
    ),
    **dict.fromkeys(("grace", "lr", "min_lr", "weight", "clip", "weight_decay", "layer_decay", "momentum", "b2"), 0),
}
_BELOW = {"momentum": 1, "b2": 1, "min_lr": 1}


def check_ranges(experiment: Experiment) -> None:
    """`InputError` for the first field whose value has the right type but is out of range."""
    run = experiment.run
    _check_fields("config", run)
    steps = sum(stage.steps for _, stage in experiment.stages)
    if run.profile and not (len(run.profile) == 2 and 1 <= run.profile[0] <= run.profile[1] <= steps):
        raise InputError(f"config.profile: expected a first and a last step in 1..{steps}, found {run.profile!r}")
    if run.patience and not run.eval_every:
        raise InputError("config.patience counts evaluations, config.eval_every=0 has one, at the end; set eval_every")
    if run.min_delta and not run.patience:
        raise InputError(f"config.min_delta={run.min_delta} is for config.patience, which is 0; set it too")
    _check_fields("config.parallel", experiment.parallel)
    if experiment.init_options != InitOptions() and run.init.startswith(("run:", "sibling:")):
        raise InputError(f"config.init_options apply only to a checkpoint, config.init is {run.init!r}; remove them")
    asked = experiment.init_options.prompts or experiment.init_options.names
    if asked and run.head != "prompts":
        raise InputError(f"config.init_options.prompts are for config.head=prompts, which is {run.head!r}; set it too")
    if run.head == "prompts" and run.init.startswith(("run:", "sibling:")):
        raise InputError(
            f"config.head=prompts is for a checkpoint of two towers, config.init is {run.init!r}; set another head"
        )
    last, own = experiment.stages[-1][0], experiment.stages[-1][1].task
    if own not in ("", experiment.task.name):
        fix = f"set config.task.name={own}, or leave it out"
        raise InputError(f"config.stage.{last}.task: the last stage trains config.task, found {own!r}; {fix}")
    for name, stream in experiment.streams:
        _check_fields(f"config.stream.{name}", dataclasses.replace(stream, batch_size=stream.batch_size or 1))
    for name, stage in experiment.stages:
        where = f"config.stage.{name}" if run.stages else "config"
        if stage.optimizer == "schedule_free":
            fix = f'set {where}.adds=("schedule_free",) and keep an optimizer'
            raise InputError(f"{where}.optimizer: schedule_free is an add-on to any optimizer; {fix}")
        _check_fields(where, stage)
        scales = [(field, dict(getattr(stage, field))) for field in ("rates", "lr_rules", "decay_rules")]
        for field, values in scales:
            for key, value in values.items():
                if value < 0:
                    raise InputError(f"{where}.{field}: expected at least 0 for {key!r}, found {value}")
        if stage.warmup > stage.steps:
            raise InputError(f"{where}.warmup: expected at most the {stage.steps} steps, found {stage.warmup}")
        _check_schedule(where, stage)
        if stage.clip_mode != "norm" and not stage.clip:
            raise InputError(f"{where}.clip_mode={stage.clip_mode} bounds by {where}.clip, which is 0; set it")
        if stage.batch_size % stage.accumulate:
            slices = f"{stage.accumulate} for a batch of {stage.batch_size}"
            raise InputError(f"{where}.accumulate: expected a number that divides batch_size, found {slices}")
        for pattern, dtype in stage.dtype_rules:
            if dtype not in DTYPES:
                expected = f"one of {', '.join(DTYPES)} for {pattern!r}"
                raise InputError(f"{where}.dtype_rules: expected {expected}, found {dtype!r}")
        for pattern, rate in stage.dropout_rules:
            if not 0 <= rate < 1:
                raise InputError(f"{where}.dropout_rules: expected 0 to less than 1 for {pattern!r}, found {rate}")
        for pattern, mode in stage.norms:
            if mode not in NORMS:
                raise InputError(f"{where}.norms: expected one of {', '.join(NORMS)} for {pattern!r}, found {mode!r}")
        if stage.rates and stage.lr is not None:
            raise InputError(f"{where}.lr and {where}.rates are both set: rates give each group its own; remove one")
    if steps > LARGEST:
        raise InputError(f"config.stages: expected at most {LARGEST} steps in total; reduce them")


def _check_schedule(where: str, stage: StageConfig) -> None:
    known, options = SCHEDULES[stage.schedule], dict(stage.schedule_options)
    if len(options) < len(stage.schedule_options):
        raise InputError(f"{where}.schedule_options: expected each name once, found {stage.schedule_options!r}")
    for name, value in options.items():
        if name not in known.options:
            lacks = f"schedule {stage.schedule!r} has no option {name!r}"
            raise InputError(f"{where}.schedule_options: {lacks}{nearest(name, known.options)}")
        _, least, most = known.options[name]
        if not least <= value <= most:
            raise InputError(f"{where}.schedule_options: expected {name} from {least:g} to {most:g}, found {value}")
    if known.rises and stage.warmup:
        raise InputError(f"{where}.warmup: {stage.schedule} has a rise of its own, found {stage.warmup}; set it to 0")


def check_comparison(compare: CompareConfig) -> None:
    """`InputError` for the first field of `config.compare` that is out of range."""
    for name in ("seeds", "trials"):
        if getattr(compare, name) < 1:
            raise InputError(f"config.compare.{name}: expected at least 1, found {getattr(compare, name)}")
    if not compare.methods or len(set(compare.methods)) < len(compare.methods) or "scratch" in compare.methods:
        raise InputError(f"config.compare.methods: expected distinct methods beside scratch, found {compare.methods!r}")
    for name in ("labels", "examples"):
        counts = getattr(compare, name)
        if len(set(counts)) < len(counts) or any(count < 1 for count in counts):
            raise InputError(f"config.compare.{name}: expected distinct positive counts, found {counts!r}")
    shares = compare.fractions
    if len(set(shares)) < len(shares) or not all(0 < share <= 1 for share in shares):
        raise InputError(f"config.compare.fractions: expected distinct shares above 0 and up to 1, found {shares!r}")
    given = [name for name in ("labels", "examples", "fractions") if getattr(compare, name)]
    if len(given) > 1:
        raise InputError(f"config.compare: expected one of labels, examples and fractions, found {' and '.join(given)}")
    if len(set(compare.metrics)) < len(compare.metrics):
        raise InputError(f"config.compare.metrics: expected distinct metrics, found {compare.metrics!r}")
    if not 0 <= compare.severity <= 5:
        raise InputError(f"config.compare.severity: expected 1 to 5, or 0 for none, found {compare.severity}")


def _check_fields(where: str, section: Any) -> None:
    for name, value in vars(section).items():
        if name in _CHOICES and value not in _CHOICES[name]:
            raise InputError(f"{where}.{name}: expected one of {', '.join(_CHOICES[name])}, found {value!r}")
        if name in _LEAST and value is not None and value < _LEAST[name]:
            raise InputError(f"{where}.{name}: expected at least {_LEAST[name]}, found {value}")
        if name in _BELOW and value >= _BELOW[name]:
            raise InputError(f"{where}.{name}: expected less than {_BELOW[name]}, found {value}")
