"""The fields of a config by dotted name and annotation: the schema for config files and overrides."""

from __future__ import annotations

import contextlib
import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxfer.config.experiment import CompareConfig, InitOptions, ParallelConfig, RunConfig, StageConfig
from jaxfer.config.streams import stream_fields, unknown_field
from jaxfer.data.prepare import DataConfig
from jaxfer.errors import InputError, nearest
from jaxfer.registry import ADDS, METHODS, MODELS, RECIPES, SOURCES, TASKS, Room

# Stands for the model of the checkpoint that `config.init` names.
AUTO = "auto"

# The field of each section that names a file of its registry; the other fields follow from that file.
SECTIONS = {"model": ("name", MODELS), "data": ("source", SOURCES), "task": ("name", TASKS)}


def hints(cls: type) -> dict[str, Any]:
    """{field: annotation} of a config dataclass."""
    return dict(_hints(cls))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def stage_fields() -> dict[str, Any]:
    """{field: annotation} of a stage."""
    return hints(StageConfig)


def common_fields() -> dict[str, Any]:
    """{field: annotation} of those whose default for all stages is `config.X`: not of the task, which is a section."""
    return {name: annotation for name, annotation in stage_fields().items() if name not in SECTIONS}


def section_schema(section: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """{field: annotation} of `config.model`, `config.data` or `config.task`, from the file the section names."""
    chooser, room = SECTIONS[section]
    name = config.get(chooser)
    if name is None:
        raise InputError(f"config.{section}.{chooser}: expected one of {', '.join(room.names())}, found nothing")
    if section == "model" and name == AUTO:
        return {chooser: str, **_any_model()}
    fields = {option: annotation for option, (annotation, _) in room.schema(name).items()}
    if section == "data":
        fields |= hints(DataConfig)
    if section == "task":
        made = room.make(name)
        fields |= dict.fromkeys((*(made.hparams or {}), *(made.unread or {})), float)
    return {chooser: str, **fields}


def _any_model() -> dict[str, Any]:
    """{option: annotation} over all models; options of the same name have the same type."""
    fields: dict[str, Any] = {}
    for name in MODELS.names():
        with contextlib.suppress(InputError):  # a broken file does not stop the others
            fields = {option: annotation for option, (annotation, _) in MODELS.schema(name).items()} | fields
    return fields


def fields_of(config: ConfigDict) -> dict[str, Any]:
    """{dotted field: annotation} of every field this config may set, except stages and method options."""
    fields = {**hints(RunConfig), **common_fields()}
    fields |= {f"parallel.{name}": annotation for name, annotation in hints(ParallelConfig).items()}
    fields |= {f"init_options.{name}": annotation for name, annotation in hints(InitOptions).items()}
    fields |= {f"compare.{name}": annotation for name, annotation in hints(CompareConfig).items()}
    for section in SECTIONS:
        chosen = section_schema(section, config[section])
        fields |= {f"{section}.{name}": annotation for name, annotation in chosen.items()}
    return fields


def annotation_of(config: ConfigDict, path: str) -> Any:
    """The type of a dotted field; `InputError` with the nearest names for a field that does not exist."""
    head, _, rest = path.partition(".")
    if head in SECTIONS and rest == SECTIONS[head][0]:
        return str  # before the section's schema, which does not exist for an unknown name
    if head in ("options", "rates") and rest:
        return _option_annotation(config.get("method", StageConfig.method), config.get("adds", ()), path)
    if head == "recipe_options" and rest:
        name = config.get("recipe", "")
        if not name:
            raise InputError(f"config.{path}: config.recipe names no recipe; set it to one of {_names(RECIPES)}")
        known = RECIPES.schema(name)
        if rest not in known:
            raise InputError(f"unknown field config.{path}: recipe {name!r} has no such option{nearest(rest, known)}")
        return known[rest][0]
    if head == "networks" and rest and "." not in rest:
        return str  # `preflight` checks the name against what the methods read
    fields = fields_of(config)
    if head == "stream" and rest:
        name, _, field = rest.partition(".")
        stream = config.get("stream", {}).get(name, {})
        known = stream_fields(stream)
        if field and field not in known:
            raise InputError(unknown_field(name, field, stream, known))
        fields |= {f"stream.{name}.{field}": annotation for field, annotation in known.items()}
    if head == "stage" and rest:
        name, _, rest = rest.partition(".")
        stages = config.get("stages", ())
        if name not in stages and not config.get("recipe"):  # a recipe names its stages later, and checks this then
            raise InputError(f"config.stage.{name}: no such stage; name it in config.stages{nearest(name, stages)}")
        if rest.startswith(("options.", "rates.")):
            stage = config.get("stage", {}).get(name, {})
            method = stage.get("method", config.get("method", StageConfig.method))
            return _option_annotation(method, stage.get("adds", config.get("adds", ())), rest)
        fields = {f"stage.{name}.{field}": annotation for field, annotation in stage_fields().items()}
    if path.startswith("compare.grid.") and path.count(".") == 3:
        return tuple[float, ...]
    if path.startswith("compare.sources."):
        return _source_annotation(config, path)
    if path.startswith("compare.stage.") and path.count(".") >= 3:
        _, _, name, rest = path.split(".", 3)
        if rest.startswith(("options.", "rates.")):
            return _option_annotation(name, config.compare.stage.get(name, {}).get("adds", ()), rest)
        fields = {f"compare.stage.{name}.{field}": annotation for field, annotation in stage_fields().items()}
    if path in fields:
        return fields[path]
    inside = sorted(f"config.{name}" for name in fields if name.startswith(f"{path}."))
    if inside:
        raise InputError(f"config.{path} is a section; set a field of it: {', '.join(inside)}")
    raise InputError(f"unknown field config.{path}{nearest(path, fields)}")


def _source_annotation(config: ConfigDict, path: str) -> Any:
    """The type of a field that a source of a comparison sets, under the model and the data that it names."""
    _, _, name, *rest = path.split(".")
    if not rest:
        return str
    known = config.compare.sources.get(name, {})
    if isinstance(known, str):
        raise InputError(
            f"config.{path}: this source is {known!r} alone; set config.compare.sources.{name}.init instead"
        )
    own = config.copy_and_resolve_references()
    with own.unlocked(), own.ignore_type():
        for section, (chooser, _) in SECTIONS.items():
            if chooser in known.get(section, {}):
                own[section] = ConfigDict({chooser: known[section][chooser]})
    return annotation_of(own, ".".join(rest))


def _names(room: Room) -> str:
    return ", ".join(room.names())


def _option_annotation(method: str, adds: Sequence[str], path: str) -> Any:
    kind, _, name = path.partition(".")
    schemas = (METHODS.schema(method), *(ADDS.schema(add) for add in adds))
    # Anything but a factory option is an hparam, a number; `stages` checks its name against the method's.
    return float if kind == "rates" else next((known[name][0] for known in schemas if name in known), float)
