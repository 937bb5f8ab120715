"""Resolves a config to a checked Experiment: every field is checked against its schema."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxfer import registry, schema
from jaxfer.config import streams
from jaxfer.config.experiment import (
    Choice,
    CompareConfig,
    Experiment,
    InitOptions,
    ParallelConfig,
    RunConfig,
    StageConfig,
)
from jaxfer.config.fields import AUTO, SECTIONS, common_fields, hints, section_schema, stage_fields
from jaxfer.config.ranges import check_comparison, check_ranges
from jaxfer.data.prepare import DataConfig
from jaxfer.errors import InputError, nearest
from jaxfer.registry import ADDS, METHODS, MODELS, SOURCES, TASKS


def _check_sections(config: ConfigDict) -> None:
    """`InputError` for a section that is not a section: `config.model = 'vit'`, `config.data = None`."""
    names = ("parallel", "init_options", "networks", "stage", "stream", "compare", "options", "rates", "recipe_options")
    names = (*SECTIONS, *names)
    sections = {name: config[name] for name in names if name in config}
    stages = sections.get("stage")
    if isinstance(stages, ConfigDict):
        sections |= {f"stage.{name}": stages[name] for name in stages}
    for name, section in sections.items():
        if not isinstance(section, ConfigDict):
            raise InputError(f"config.{name}: expected its fields as dict(...), found {section!r}")


def resolve(config: ConfigDict) -> Experiment:
    """A checked Experiment; `InputError` for the first field that is wrong."""
    check_config(config)
    _check_sections(config)
    plain = config.copy_and_resolve_references().to_dict()
    shared, run_fields = common_fields(), hints(RunConfig)
    registry.use(schema.check(plain.get("rooms", ()), run_fields["rooms"], "config.rooms"))
    known = {*shared, *run_fields, *SECTIONS, "parallel", "init_options", "networks", "stage", "stream", "compare"}
    for name in plain:
        if name not in known:
            raise InputError(f"unknown field config.{name}{nearest(name, known)}")
    run = RunConfig(**_checked(plain, run_fields, "config", only=run_fields))
    common = _defaults(StageConfig) | {"lr": None} | _checked(plain, shared, "config", only=shared)
    overrides = plain.get("stage", {})
    for name in overrides:
        if name not in run.stages:
            raise InputError(f"config.stage.{name}: no such stage in config.stages={run.stages!r}; add it there")
    if len(set(run.stages)) < len(run.stages) or not all(re.fullmatch(r"[\w-]+", name) for name in run.stages):
        raise InputError(f"config.stages: expected distinct names of letters, digits, _ and -, found {run.stages!r}")
    stages = tuple((name, _stage(name, common, overrides.get(name, {}))) for name in run.stages)
    stages = stages or (("train", _stage("", common, {})),)
    sections = {name: _section(name, plain.get(name, {})) for name in SECTIONS}
    data_fields = hints(DataConfig)
    task, task_hparams = _task(*sections["task"], run)
    experiment = Experiment(
        run=run,
        parallel=ParallelConfig(**_checked(plain.get("parallel", {}), hints(ParallelConfig), "config.parallel")),
        model=_choice(MODELS, *sections["model"]),
        task=task,
        task_hparams=task_hparams,
        data=DataConfig(
            **{k: v for k, v in sections["data"][1].items() if k in data_fields}, source=sections["data"][0]
        ),
        source=_choice(
            SOURCES, sections["data"][0], {k: v for k, v in sections["data"][1].items() if k not in data_fields}
        ),
        stages=stages,
        init_options=init_options(config) if run.init != "scratch" else InitOptions(),
        streams=streams.resolved(plain.get("stream", {}), tuple(sections["data"][1].get("augment", ()))),
        networks=_networks(plain.get("networks", {})),
    )
    check_ranges(experiment)
    if taken := sorted(dict(experiment.networks).keys() & dict(experiment.streams).keys()):
        raise InputError(f"config.stream.{taken[0]}: config.networks has that name too; rename one of the two")
    return experiment


def _task(name: str, values: Mapping[str, Any], run: RunConfig) -> tuple[Choice, dict[str, float]]:
    """(the task with its options, its hparams). An option that is None is left out, as of a method."""
    options = {option: values[option] for option in TASKS.schema(name) if values[option] is not None}
    made = TASKS.make(name, **options).watching(name, run.monitor, run.monitor_mode)
    hparams = {hparam: values.get(hparam, default) for hparam, default in (made.hparams or {}).items()}
    for hparam, reader in (made.unread or {}).items():
        if hparam in values:
            raise InputError(f"config.task.{hparam}: nothing reads it; set config.task.{reader}, or leave it out")
    for hparam, (least, below) in (made.limits or {}).items():
        value = hparams[hparam]
        if not least <= value < below:
            expected = f"at least {least:g}" + (f" and less than {below:g}" if math.isfinite(below) else "")
            raise InputError(f"config.task.{hparam}: expected {expected}, found {value}")
    return _choice(TASKS, name, options), hparams


def check_config(config: Any) -> None:
    """`InputError` for an argument that is not a config: its file's name, a dict."""
    if not isinstance(config, ConfigDict):
        raise InputError(f"expected a config, found {config!r:.40}; start from jaxfer.load(FILE)")


def init_options(config: ConfigDict) -> InitOptions:
    """The checked section `config.init_options`."""
    section = config.get("init_options", {})
    return InitOptions(**_checked(dict(section), hints(InitOptions), "config.init_options"))


def _networks(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    for name, value in values.items():
        if not schema.check(value, str, f"config.networks.{name}") or value == "scratch":
            expected = "expected run:FOLDER, sibling:NAME or a checkpoint"
            raise InputError(f"config.networks.{name}: {expected}, found {value!r}")
    return tuple(sorted(values.items()))


def comparison(config: ConfigDict) -> CompareConfig:
    """The checked section `config.compare`."""
    plain = config.copy_and_resolve_references().to_dict()
    compare = CompareConfig(**_checked(plain.get("compare", {}), hints(CompareConfig), "config.compare"))
    check_comparison(compare)
    return compare


def _stage(name: str, common: Mapping[str, Any], raw: Mapping[str, Any]) -> StageConfig:
    """One stage; its own fields take precedence over the common ones."""
    where = f"config.stage.{name}" if name else "config"
    overrides = _checked(raw, stage_fields(), where)
    stage = {**common, **overrides}
    if stage["method"] != name and "method" not in overrides and name in METHODS.names():
        mismatch = f"stage {name!r} has the name of one method but runs {stage['method']!r}"
        raise InputError(f"{where}: {mismatch}; set {where}.method={name} or rename the stage")
    if stage["method"] != common["method"] and "options" not in overrides:
        stage["options"] = {}  # the common options are the common method's
    if stage["schedule"] != common["schedule"] and "schedule_options" not in overrides:
        stage["schedule_options"] = ()
    if overrides.get("lr") is not None and "rates" not in overrides:  # the stage's rate wins
        stage["rates"] = {}
    if overrides.get("rates") and "lr" not in overrides:
        stage["lr"] = None
    if stage["task"]:
        TASKS.get(stage["task"])  # an unknown name raises, listing the nearest ones
    options, method_options = dict(stage["options"]), {}
    for room, member in ((METHODS, stage["method"]), *((ADDS, add) for add in stage["adds"])):
        own = room.schema(member)  # any other option is an hparam, which `stages` checks
        structural = {option: value for option, value in options.items() if option in own}
        options |= room.complete(member, structural, f"{where}.options")
        method_options |= own
    # An option that is None is left out: written out or not, and before its method had it, it is the same experiment.
    options = {name: value for name, value in options.items() if value is not None or name not in method_options}
    return StageConfig(**{**stage, "options": options})


def _section(section: str, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(chosen name, options complete with their defaults), checked against the chosen file's signature."""
    chooser, room = SECTIONS[section]
    fields = section_schema(section, values)
    name = values[chooser]
    if section == "model" and name == AUTO:  # `preflight` replaces it by the checkpoint's model
        raise InputError(
            "config.model.name=auto uses the model of the checkpoint that config.init names (a Hub name, folder or "
            "file) or of the run (run:FOLDER, sibling:NAME); config.init names none that is there, so set "
            f"config.model.name to one of {', '.join(room.names())}"
        )
    member_options = room.schema(name)
    shared = _checked(
        {key: value for key, value in values.items() if key not in member_options}, fields, f"config.{section}"
    )
    del shared[chooser]
    options = {key: value for key, value in values.items() if key in member_options}
    return name, room.complete(name, options, f"config.{section}") | shared


def _checked(values: Mapping[str, Any], fields: Mapping[str, Any], where: str, only: Any = None) -> dict[str, Any]:
    values = values if only is None else {k: v for k, v in values.items() if k in only}
    for name in values:
        if name not in fields:
            raise InputError(f"unknown field {where}.{name}{nearest(name, fields)}")
    return {name: schema.check(value, fields[name], f"{where}.{name}") for name, value in values.items()}


def _choice(room: Any, name: str, options: Mapping[str, Any]) -> Choice:
    room.get(name)
    # As for methods: a source's option that is None is left out, as before the source had it.
    options = {option: value for option, value in options.items() if value is not None or room is not SOURCES}
    return Choice(name=name, options=tuple(sorted(options.items())))


def _defaults(cls: type) -> dict[str, Any]:
    made = cls()
    return {field.name: getattr(made, field.name) for field in dataclasses.fields(cls) if field.name != "lr"}
