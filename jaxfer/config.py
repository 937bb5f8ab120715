"""Config files: load one, apply `config.a.b=value` overrides, check every field before anything is built.

A config file defines `get_config(arg="")`, which fills in `base()` and returns it, and optionally `sweep()`. The
sections `model`, `data`, `task` and a method's `options` have the fields of the file they name: the signature of
`jaxfer/models/resnet.py:port` is the schema of `config.model` where `config.model.name` is `resnet`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict, config_dict

from jaxfer import schema
from jaxfer.data.dataset import DataConfig
from jaxfer.errors import InputError, nearest
from jaxfer.experiment import (
    Choice,
    CompareConfig,
    Experiment,
    ParallelConfig,
    RunConfig,
    StageConfig,
    check_comparison,
    check_ranges,
)
from jaxfer.fields import AUTO, SECTIONS, annotation_of, fields_of, hints, section_schema, stage_fields
from jaxfer.registry import METHODS, MODELS, SOURCES, TASKS


def base() -> ConfigDict:
    """Every field with its default: start a config file from this. Fields that do not exist can't be set."""
    config = ConfigDict({**_defaults(RunConfig), **_defaults(StageConfig)})
    config.lr = config_dict.placeholder(float)
    config.parallel = _defaults(ParallelConfig)
    config.compare = _defaults(CompareConfig)
    config.model = {"name": "resnet"}
    config.data = _defaults(DataConfig)
    config.task = {"name": "classification"}
    config.stage = {}
    config.lock()
    free = (config.model, config.data, config.task, config.stage, config.options, config.rates)
    for section in (*free, config.compare.stage, config.compare.grid, config.compare.sources):
        section.unlock()
    return config


def load(spec: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """The config of `FILE`, `FILE:ARG` or a shipped config's `NAME[:ARG]`, with `{"a.b": value or text}` applied.

    Raises:
      InputError: no such file, a file without `get_config`, an unknown field or a value of the wrong type.
    """
    module, arg = load_module(spec)
    try:
        config = module.get_config(arg)
    except InputError:
        raise
    except Exception as error:  # whatever it is: the file's author needs its line, not our stack
        raise InputError(f"{spec}: get_config({arg!r}) failed: {_reason(error, module.__file__)}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{spec}: get_config must return a ConfigDict (start from jaxfer.config.base())")
    return override(config, overrides or {})


def load_module(spec: str) -> tuple[ModuleType, str]:
    """(module, argument) of `FILE[:ARG]`, or of `NAME[:ARG]` for a config that comes with the package."""
    name, _, arg = spec.partition(":")
    path = Path(name)
    if not path.exists():
        path = shipped().get(name, path)
    if not path.is_file() or path.suffix != ".py":
        folder = path if path.is_dir() else path.parent
        there = sorted(str(found) for found in folder.glob("*.py")) if folder.is_dir() else []
        there += shipped() if "/" not in name else []
        what = "is a folder" if path.is_dir() else "is no Python file" if path.is_file() else "does not exist"
        raise InputError(f"expected a config file FILE.py[:ARG], but {name!r} {what}{nearest(name, there)}")
    location = importlib.util.spec_from_file_location(f"jaxfer_config_{path.stem}", path)
    module = importlib.util.module_from_spec(location)
    sys.modules[location.name] = module
    try:
        location.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{name}: cannot be read as a config file: {_reason(error, module.__file__)}") from error
    if not hasattr(module, "get_config"):
        raise InputError(f"{name}: expected a function get_config(arg=''), found none")
    return module, arg


def shipped() -> dict[str, Path]:
    """{name: file} of the configs that come with jaxfer: in a wheel `shipped/configs`, else the repository's own."""
    package = Path(importlib.util.find_spec("jaxfer").origin).parent
    folders = (package / "shipped" / "configs", package.parent / "configs")
    folder = next((folder for folder in folders if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.py"))}


def _reason(error: Exception, file: str) -> str:
    """One line about an error in a config file: what, and where in that file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    at = f" (line {lines[-1]})" if lines else ""
    text = str(error)
    if unknown := re.search(r'Key "(\w+)" does not exist and cannot be added', text):
        return f"unknown field {unknown[1]!r}{nearest(unknown[1], fields_of(base()))}{at}"
    pattern = r"override field '(\w+)'.*?\. (.*) is of original type <class '(.*?)'>.*<class '(.*?)'>"
    if wrong := re.search(pattern, text):
        found, wanted = (kind.rpartition(".")[2].replace("ConfigDict", "dict") for kind in wrong.group(3, 4))
        return f"field {wrong[1]!r}: expected {wanted}, found {wrong[2]} ({found}){at}"
    return f"{type(error).__name__}: {(text.splitlines() or [''])[0]}{at}"


def words(arg: str, known: Iterable[str]) -> frozenset[str]:
    """The comma-separated words of a config's argument (`lora,tiny`), each of which must be known."""
    given = frozenset(word for word in arg.split(",") if word)
    for word in sorted(given - frozenset(known)):
        raise InputError(f"unknown config argument {word!r}{nearest(word, known)}")
    return given


def packaged(folder: str, otherwise: str) -> str:
    """The path of `PACKAGE/folder` where that package is installed, for `config.init`; else `otherwise`, a Hub name."""
    package, _, inside = folder.partition("/")
    found = importlib.util.find_spec(package)
    return otherwise if found is None else f"{found.submodule_search_locations[0]}/{inside}"


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """A copy with each `{"a.b": value}` set; text is read by the field's type.

    Naming another model, data source, task or method starts that section's own options afresh; other overrides are
    applied after these.
    """
    config = config.copy_and_resolve_references()
    _check_sections(config)
    for path in sorted(overrides, key=lambda path: (_precedence(path), path)):
        _set(config, path, overrides[path])
    return config


def _precedence(path: str) -> int:
    """Names of stages first, then what chooses a section's or a stage's options, then the rest."""
    choosers = {"method", *(f"{section}.{field}" for section, (field, _) in SECTIONS.items())}
    if path == "stages":
        return 0
    if path in choosers:
        return 1
    return 2 if path.startswith("stage.") and path.endswith(".method") else 3


def _set(config: ConfigDict, path: str, value: Any) -> None:
    where = f"config.{path}"
    annotation = annotation_of(config, path)
    value = schema.parse(value, annotation, where) if isinstance(value, str) else value
    value = schema.check(value, annotation, where)
    *parents, field = path.split(".")
    section, (chooser, room) = config, SECTIONS.get(parents[0] if parents else "", ("", None))
    if field == chooser and room is not None:
        if (parents[0], value) != ("model", AUTO):
            room.get(value)  # an unknown name is an error here, with the nearest ones
        if value != config[parents[0]].get(chooser):
            generic = {f.name for f in dataclasses.fields(DataConfig)} if parents[0] == "data" else set()
            with config[parents[0]].unlocked():
                for stale in set(config[parents[0]]) - generic:
                    del config[parents[0]][stale]
    for parent in parents:
        if parent not in section:
            with section.unlocked():
                section[parent] = ConfigDict()
        section = section[parent]
    if field == "method" and METHODS.get(value) and value != section.get("method"):
        with section.unlocked():
            section.options = ConfigDict()
    with section.unlocked(), section.ignore_type():
        section[field] = value
    if _shadowed(config, parents[0] if parents else field):
        raise InputError(f"{where} changes nothing: every stage sets its own; use config.stage.NAME.{path}")


def _shadowed(config: ConfigDict, field: str) -> bool:
    """Whether every stage has its own value of a common stage field."""
    hiding = {"lr": ("lr", "rates"), "rates": ("lr", "rates"), "options": ("options", "method")}.get(field, (field,))
    stages = [config.get("stage", {}).get(name, {}) for name in config.get("stages", ())]
    return field in stage_fields() and bool(stages) and all(any(name in own for name in hiding) for own in stages)


def _check_sections(config: ConfigDict) -> None:
    """`InputError` where something else stands in a section's place: `config.model = 'vit'`, `config.data = None`."""
    names = (*SECTIONS, "parallel", "stage", "compare", "options", "rates")
    sections = {name: config[name] for name in names if name in config}
    stages = sections.get("stage")
    if isinstance(stages, ConfigDict):
        sections |= {f"stage.{name}": stages[name] for name in stages}
    for name, section in sections.items():
        if not isinstance(section, ConfigDict):
            raise InputError(f"config.{name}: expected its fields as dict(...), found {section!r}")


def resolve(config: ConfigDict) -> Experiment:
    """A checked Experiment; `InputError` for the first field that is wrong."""
    _check_sections(config)
    plain = config.copy_and_resolve_references().to_dict()
    common_fields, run_fields = stage_fields(), hints(RunConfig)
    known = {*common_fields, *run_fields, *SECTIONS, "parallel", "stage", "compare"}
    for name in plain:
        if name not in known:
            raise InputError(f"unknown field config.{name}{nearest(name, known)}")
    run = RunConfig(**_checked(plain, run_fields, "config", only=run_fields))
    common = _defaults(StageConfig) | {"lr": None} | _checked(plain, common_fields, "config", only=common_fields)
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
    task, task_options = sections["task"]
    made = TASKS.make(task)
    hparams = made.hparams or {}
    for name, (least, below) in (made.limits or {}).items():
        if not least <= task_options.get(name, hparams[name]) < below:
            found = task_options[name]
            raise InputError(f"config.task.{name}: expected at least {least:g} and less than {below:g}, found {found}")
    experiment = Experiment(
        run=run,
        parallel=ParallelConfig(**_checked(plain.get("parallel", {}), hints(ParallelConfig), "config.parallel")),
        model=_choice(MODELS, *sections["model"]),
        task=_choice(TASKS, task, {k: v for k, v in task_options.items() if k not in hparams}),
        task_hparams={k: task_options.get(k, default) for k, default in hparams.items()},
        data=DataConfig(
            **{k: v for k, v in sections["data"][1].items() if k in data_fields}, source=sections["data"][0]
        ),
        source=_choice(
            SOURCES, sections["data"][0], {k: v for k, v in sections["data"][1].items() if k not in data_fields}
        ),
        stages=stages,
    )
    check_ranges(experiment)
    return experiment


def comparison(config: ConfigDict) -> CompareConfig:
    """The checked section `config.compare`."""
    plain = config.copy_and_resolve_references().to_dict()
    found = CompareConfig(**_checked(plain.get("compare", {}), hints(CompareConfig), "config.compare"))
    check_comparison(found)
    return found


def _stage(name: str, common: Mapping[str, Any], given: Mapping[str, Any]) -> StageConfig:
    """One stage: its own fields before the common ones."""
    where = f"config.stage.{name}" if name else "config"
    own = _checked(given, stage_fields(), where)
    stage = {**common, **own}
    if stage["method"] != name and "method" not in own and name in METHODS.names():
        found = f"a stage called {name!r} with method {stage['method']!r}"
        raise InputError(f"{where}: {found} misleads; set {where}.method={name} or rename the stage")
    if stage["method"] != common["method"] and "options" not in own:
        stage["options"] = {}  # the common options are the common method's
    if own.get("lr") is not None and "rates" not in own:  # the rate that stands closer to the stage counts
        stage["rates"] = {}
    if own.get("rates") and "lr" not in own:
        stage["lr"] = None
    types = {option: annotation for option, (annotation, _) in METHODS.schema(stage["method"]).items()}
    structural = _checked(stage["options"], types, f"{where}.options", only=types)
    return StageConfig(**{**stage, "options": {**stage["options"], **structural}})


def _section(section: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(chosen name, options complete with their defaults), checked against the chosen file's signature."""
    chooser, room = SECTIONS[section]
    fields = section_schema(section, given)
    name = given[chooser]
    if section == "model" and name == AUTO:  # `preflight` has put the checkpoint's own model in its place
        raise InputError(
            "config.model.name=auto takes the model of the checkpoint that config.init names (a Hub name, folder or "
            f"file); init names none, so name one of {', '.join(room.names())}"
        )
    options = {key: default for key, (_, default) in room.schema(name).items()}
    options |= _checked(given, fields, f"config.{section}")
    options.pop(chooser)
    return name, options


def _checked(given: Mapping[str, Any], fields: Mapping[str, Any], where: str, only: Any = None) -> dict[str, Any]:
    given = given if only is None else {k: v for k, v in given.items() if k in only}
    for name in given:
        if name not in fields:
            raise InputError(f"unknown field {where}.{name}{nearest(name, fields)}")
    return {name: schema.check(value, fields[name], f"{where}.{name}") for name, value in given.items()}


def _choice(room: Any, name: str, options: Mapping[str, Any]) -> Choice:
    room.get(name)
    return Choice(name=name, options=tuple(sorted(options.items())))


def _defaults(cls: type) -> dict[str, Any]:
    made = cls()
    return {field.name: getattr(made, field.name) for field in dataclasses.fields(cls) if field.name != "lr"}
