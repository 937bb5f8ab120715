"""Config files: load one, apply `config.a.b=value` overrides, and check every field before anything is built.

A config file defines `get_config(arg="")`, which fills in `base()` and returns it, and optionally `sweep()`. The
sections `model`, `data`, `task` and a method's `options` have the fields of the file they name: the signature of
`jaxfer/models/resnet.py:port` is the schema of `config.model` where `config.model.name` is `resnet`.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from etils import epath
from ml_collections import ConfigDict, FrozenConfigDict, config_dict

from jaxfer import json_files, registry, schema
from jaxfer.config import durations
from jaxfer.config.experiment import (
    CompareConfig,
    InitOptions,
    ParallelConfig,
    RunConfig,
    StageConfig,
)
from jaxfer.config.fields import AUTO, SECTIONS, annotation_of, common_fields, fields_of
from jaxfer.config.resolve import _check_sections, _defaults, check_config
from jaxfer.data.prepare import DataConfig
from jaxfer.errors import InputError, nearest
from jaxfer.registry import METHODS, RECIPES


def base() -> ConfigDict:
    """Every field with its default, to start a config file from. Fields that do not exist can't be set."""
    stage = {name: value for name, value in _defaults(StageConfig).items() if name in common_fields()}
    config = ConfigDict({**_defaults(RunConfig), **stage})
    config.lr = config_dict.placeholder(float)
    for field in (*durations.STAGE, *durations.RUN):  # steps, or a duration in words
        config[field] = durations.Steps(config[field])
    config.parallel = _defaults(ParallelConfig)
    config.init_options = _defaults(InitOptions)
    config.networks = {}
    config.compare = _defaults(CompareConfig)
    config.model = {"name": "resnet"}
    config.data = _defaults(DataConfig)
    config.task = {"name": "classification"}
    config.stage, config.stream = {}, {}
    config.lock()
    sections = (config.model, config.data, config.task, config.options, config.rates)
    free = (*sections, config.recipe_options, config.stage, config.stream, config.networks)
    for section in (*free, config.compare.stage, config.compare.grid, config.compare.sources):
        section.unlock()
    return config


def load(spec: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """The config of `FILE`, `FILE:ARG` or a shipped config's `NAME[:ARG]`, with `{"a.b": value or text}` applied.

    `FILE.json` is the config.json of a run.

    Raises:
      InputError: no such file, a file without `get_config`, an unknown field or a value of the wrong type.
    """
    if spelled(spec).endswith(".json"):
        return override(_of_run(epath.Path(spec)), overrides or {})
    module, arg = load_module(spec)
    if arg and not _reads_argument(module.get_config):
        _warn_once(f"{spec}: get_config never reads its argument, so {arg!r} changes nothing but the default folder")
    config = called(module, spec, "get_config", arg)
    if not isinstance(config, ConfigDict):
        raise InputError(f"{spec}: get_config must return a ConfigDict (start from jaxfer.config.base())")
    if isinstance(config, FrozenConfigDict):
        config = ConfigDict(config)
    return override(_with_rooms(config, Path(module.__file__)), overrides or {})


def stored(path: epath.Path, *, fix: str, **how: Any) -> ConfigDict:
    """What a run wrote as its config.json; keywords as of `json_files.read`."""
    content = json_files.read(path, fix=fix, **how)
    try:
        return ConfigDict(content)
    except (ValueError, RecursionError) as error:  # a name with dots, which no field has
        raise InputError(f"{path}: {str(error).splitlines()[0]}; {fix}") from None


def _of_run(path: epath.Path) -> ConfigDict:
    config = stored(path, fix="name the config.json of a run", damaged="expected a run's config")
    if "stages" not in config:
        raise InputError(f"{path}: expected the config.json of a run, found other JSON; name one, or a FILE.py[:ARG]")
    empty = base()
    for section in ("init_options", "networks", "stage", "stream"):  # which a run leaves out where nothing is in them
        if section not in config:
            config[section] = empty[section]
    return config


def _with_rooms(config: ConfigDict, file: Path) -> ConfigDict:
    """The config with `rooms` set to the folders of the user's own methods, models, tasks and sources."""
    rooms = registry.beside(file)
    if rooms:
        with config.unlocked():
            config.rooms = tuple(dict.fromkeys((*config.get("rooms", ()), *rooms)))
    return config


def called(module: ModuleType, spec: str, name: str, *args: Any) -> Any:
    """The return value of a function in the config file; an iterator's items as a tuple.

    Raises:
      InputError: it is not a plain function, or it raises; the one-line message names the line of the file.
    """
    function = getattr(module, name)
    shown = f"{name}({', '.join(map(repr, args))})"
    if not callable(function):
        raise InputError(f"{spec}: expected a function {name}, found {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InputError(f"{spec}: {name} is async, which nothing awaits; define it without async")
    try:
        result = function(*args)
        return tuple(result) if isinstance(result, Iterator) else result
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # also SystemExit, which must not end the command as if it had succeeded
        raise InputError(f"{spec}: {shown} failed: {_reason(error, module.__file__)}") from error


def _reads_argument(function: Any) -> bool:
    """Whether the code of `get_config(arg)` reads its argument; True if that can't be determined."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or not code.co_argcount:
        return True
    name = code.co_varnames[0]
    loads = (i for i in dis.get_instructions(code) if i.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE")))
    return name in code.co_cellvars or any(i.argval == name or name in _words(i.argval) for i in loads)


def _words(argval: Any) -> tuple[str, ...]:
    return argval if isinstance(argval, tuple) else ()  # Python 3.13 loads two variables at once


@functools.lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def load_module(spec: str) -> tuple[ModuleType, str]:
    """(module, argument) of `FILE[:ARG]`, or of `NAME[:ARG]` for a config that comes with the package."""
    name, _, arg = spelled(spec).partition(":")
    path = Path(name)
    if not path.is_file():  # a folder of that name, of runs say, is no config either
        path = shipped().get(name, path)
    if not path.is_file() or path.suffix != ".py":
        folder = path if path.is_dir() else path.parent
        candidates = sorted(str(file) for file in folder.glob("*.py")) if folder.is_dir() else []
        candidates += shipped() if "/" not in name else []
        problem = "is a folder" if path.is_dir() else "is not a Python file" if path.is_file() else "does not exist"
        raise InputError(f"expected a config file FILE.py[:ARG], but {name!r} {problem}{nearest(name, candidates)}")
    location = importlib.util.spec_from_file_location(f"jaxfer_config_{path.stem}", path)
    module = importlib.util.module_from_spec(location)
    sys.modules[location.name] = module
    registry.use(registry.beside(path))
    try:
        location.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InputError(f"{name}: cannot be read as a config file: {_reason(error, module.__file__)}") from error
    if not hasattr(module, "get_config"):
        raise InputError(f"{name}: expected a function get_config(arg=''), found none")
    return module, arg


def shipped() -> dict[str, Path]:
    """{name: file} of the configs that come with jaxfer: `shipped/configs` in a wheel, else `configs`."""
    package = Path(importlib.util.find_spec("jaxfer").origin).parent
    folders = (package / "shipped" / "configs", package.parent / "configs")
    folder = next((folder for folder in folders if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.py"))}


def _reason(error: BaseException, file: str) -> str:
    """One line about an error in a config file: the reason and the line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    at = f" (line {lines[-1]})" if lines else ""
    try:
        text = str(error)
    except Exception:  # its author's own __str__
        text = "its message can't be read"
    if unknown := re.search(r'Key "(\w+)" does not exist and cannot be added', text):
        return f"unknown field {unknown[1]!r}{nearest(unknown[1], fields_of(base()))}{at}"
    pattern = r"override field '(\w+)'.*?\. (.*) is of original type <class '(.*?)'>.*<class '(.*?)'>"
    if wrong := re.search(pattern, text):
        actual, wanted = (kind.rpartition(".")[2].replace("ConfigDict", "dict") for kind in wrong.group(3, 4))
        return f"field {wrong[1]!r}: expected {wanted}, found {wrong[2]} ({actual}){at}"
    return ": ".join(filter(None, (type(error).__name__, *text.splitlines()[:1]))) + at


def words(arg: str, known: Iterable[str]) -> frozenset[str]:
    """The comma-separated words of a config's argument (`lora,tiny`); each must be one of `known`."""
    requested = frozenset(word for word in arg.split(",") if word)
    for word in sorted(requested - frozenset(known)):
        raise InputError(f"unknown config argument {word!r}{nearest(word, known)}")
    return requested


def spelled(spec: str | os.PathLike[str]) -> str:
    """`FILE[:ARG]` as a string; `InputError` if it is neither a string nor a path."""
    if not isinstance(spec, (str, os.PathLike)):
        raise InputError(f"expected a config file FILE.py[:ARG], found {spec!r:.60}")
    return os.fspath(spec)


def packaged(folder: str, otherwise: str) -> str:
    """The path of `PACKAGE/folder` if that package is installed, for `config.init`; else `otherwise`, a Hub name."""
    package, _, inside = folder.partition("/")
    module_spec = importlib.util.find_spec(package)
    return otherwise if module_spec is None else f"{module_spec.submodule_search_locations[0]}/{inside}"


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """A copy with each `{"a.b": value}` set; strings are parsed by the field's type.

    Naming another model, data source, task or method starts that section's own options afresh; other overrides are
    applied after these.
    """
    check_config(config)
    check_overrides(overrides)
    config = config.copy_and_resolve_references()
    _check_sections(config)
    for path in sorted(overrides, key=lambda path: (_precedence(path), path)):
        _set(config, path, overrides[path])
    return config


def check_overrides(overrides: Any) -> None:
    """`InputError` unless overrides are a mapping from field names."""
    if not isinstance(overrides, Mapping) or not all(isinstance(path, str) for path in overrides):
        raise InputError(f"overrides: expected {{'a.b': value}}, such as {{'data.path': 'x'}}, found {overrides!r:.60}")


def _precedence(path: str) -> int:
    """Sort order: stage names first, then fields that choose a section's or stage's options, then the rest."""
    choosers = {"method", "recipe", *(f"{section}.{field}" for section, (field, _) in SECTIONS.items())}
    if path == "stages":
        return 0
    if path in choosers:
        return 1
    chooses = path.startswith("stage.") and path.endswith(".method")
    chooses |= path.startswith("stream.") and path.endswith((".source", ".rows"))
    return 2 if chooses else 3


def _set(config: ConfigDict, path: str, value: Any) -> None:
    where = f"config.{path}"
    annotation = annotation_of(config, path)
    *parents, field = path.split(".")
    if not (field in (*durations.STAGE, *durations.RUN) and durations.said(value)):
        value = schema.parse(value, annotation, where) if isinstance(value, str) else value
        value = schema.check(value, annotation, where)
    section, (chooser, room) = config, SECTIONS.get(parents[0] if parents else "", ("", None))
    if field == chooser and room is not None:
        if (parents[0], value) != ("model", AUTO):
            room.get(value)  # an unknown name raises, listing the nearest ones
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
    if path == "recipe" and value and RECIPES.get(value) and value != config.get("recipe"):
        config.recipe_options = ConfigDict()
    if field == "method" and METHODS.get(value) and value != section.get("method"):
        with section.unlocked():
            section.options = ConfigDict()
    with section.unlocked(), section.ignore_type():
        section[field] = value
    if _shadowed(config, parents[0] if parents else field):
        raise InputError(f"{where} has no effect: every stage sets its own; use config.stage.NAME.{path}")


def _shadowed(config: ConfigDict, field: str) -> bool:
    """Whether every stage overrides a common stage field."""
    hiding = {"lr": ("lr", "rates"), "rates": ("lr", "rates"), "options": ("options", "method")}.get(field, (field,))
    stages = [config.get("stage", {}).get(name, {}) for name in config.get("stages", ())]
    return field in common_fields() and bool(stages) and all(any(name in stage for name in hiding) for stage in stages)
