"""Registries by file: `methods/x.py` defines the method `x`, and its factory's signature is its schema.

The schema is the factory's keyword-only parameters that have a default, or the fields of a dataclass that its first
parameter, `options`, is annotated with.

A room is a registry: a package whose modules each define one factory of the same name: `jaxfer.methods.*.method`,
`jaxfer.models.*.port`, `jaxfer.tasks.*.task`, `jaxfer.data.sources.*.source`. Users add to a room without editing the
package: by a folder of the room's name next to their config (`use`), or by an entry point of an installed package in
the group `jaxfer.methods`, `jaxfer.models`, `jaxfer.tasks` or `jaxfer.sources`. Keyword-only parameters with an
annotation and a default are what a config may set. A module is imported when it is first used, so that
a broken file does not stop the others.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import shutil
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfer.errors import InputError, nearest
from jaxfer.schema import check


@dataclass(frozen=True)
class Room:
    """A registry of one kind of member, each defined by a file.

    Attributes:
      kind: the word errors use (`method`).
      package: the package of its modules.
      factory: the function every module defines.
      shared: the same arguments give the same product, and so share its compiled programs; False where a product
        depends on more than its arguments (files), and each module decides what it may keep.
      reserved: parameters of factories that are no options of a config.
      common: a module whose dataclass `Common` has options of every member besides its own, and whose
        `added(product, options)` is the product with them.
    """

    kind: str
    package: str
    factory: str
    shared: bool = True
    reserved: tuple[str, ...] = ()
    common: str = ""

    @property
    def word(self) -> str:
        """The word for a member on the command line: `method`, `model`, `task`, `source`."""
        return self.folder.removesuffix("s")

    @property
    def folder(self) -> str:
        """Name of a user's folder of members (`methods`), also the last part of the entry points' group."""
        return self.package.rpartition(".")[2]

    def names(self) -> tuple[str, ...]:
        """Every member's name, sorted: files whose text defines the factory. They are read, not imported.

        Other modules are shared code, and names that start with `_` are private.
        """
        local = {file.stem for folder in self._folders() for file in self._members(folder)}
        return tuple(sorted({*local, *_entry_points(self.folder)}))

    def sources(self, name: str) -> tuple[Path, ...]:
        """The file that defines `name` and the shared code beside it: every file of the room it can depend on."""
        for folder in self._folders():
            members = self._members(folder)
            for file in members:
                if file.stem == name:
                    return (file, *sorted(set(folder.glob("*.py")) - set(members)))
        spec = importlib.util.find_spec(_entry_points(self.folder)[name])
        return (Path(spec.origin),) if spec and spec.origin else ()

    def use(self, folder: Path) -> None:
        """Adds the files of a user's folder; `InputError` if a name is taken.

        The folder joins the package's path: its modules are imported, and pickled, as `jaxfer.methods.x`.
        """
        added, package = self._members(folder), importlib.import_module(self.package)
        if not added or folder in self._folders():
            return
        known = {file.stem: file for other in self._folders() for file in self._members(other)}
        for file in added:
            other = known.get(file.stem)
            if other is not None and other.read_bytes() != file.read_bytes():
                raise InputError(f"{file}: a {self.kind} of this name exists ({other}); rename the file")
        package.__path__.append(str(folder))

    def make(self, name: str, /, *args: Any, **options: Any) -> Any:
        """Calls the factory; in a `shared` room the same arguments give the same object."""
        factory = self.get(name)
        if self.shared:
            return _made(factory, self.common, args, tuple(sorted(options.items())))
        return _called(factory, self.common, args, options)

    def anew(self, name: str, /, *args: Any, **options: Any) -> Any:
        """`make` that calls the factory each time."""
        return _called(self.get(name), self.common, args, options)

    def training(self, name: str) -> frozenset[str]:
        """Names of the options that change training or its cost alone, by the fields of the factory's dataclass."""
        kinds = (_dataclass(self.get(name)), _common(self.common))
        fields = [field for kind in kinds if kind is not None for field in dataclasses.fields(kind)]
        return frozenset(field.name for field in fields if field.metadata.get("training"))

    def schema(self, name: str) -> dict[str, tuple[Any, Any]]:
        """{option: (annotated type, default)}."""
        own = {name: kept for name, kept in _schema(self.get(name)).items() if name not in self.reserved}
        return own | {name: kept for name, kept in _fields(_common(self.common)).items() if name not in own}

    def complete(self, name: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Every option of the factory, checked; those left out get their defaults. Common ones are left out at theirs.

        Args:
          name: of the file.
          options: {option: value}.
          where: what an error calls the section (`config.model`).

        Raises:
          InputError: there is no such option, or the value is not of the annotated type.
        """
        defaults = {option: default for option, (_, default) in self.schema(name).items()}
        unset = {option for option in _fields(_common(self.common)) if option not in _schema(self.get(name))}
        given = defaults | self.checked(name, options, where)
        return {option: x for option, x in given.items() if option not in unset or x != defaults[option]}

    def checked(self, name: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
        """These options alone, checked against their annotations; raises as `complete` does."""
        known = self.schema(name)
        for option in options:
            if option not in known:
                raise InputError(f"unknown field {where}.{option}{nearest(option, known)}")
        return {option: check(value, known[option][0], f"{where}.{option}") for option, value in options.items()}

    def get(self, name: str) -> Callable[..., Any]:
        """The factory of `name`; `InputError` if there is none or its file can't be imported."""
        named = isinstance(name, str) and name.isidentifier()
        module = f"{self.package}.{name}"
        # Of all files only the one is read: a config asks for its members' schemas many times.
        if not named or not any(self._members(folder, f"{name}.py") for folder in self._folders()):
            if not named or name not in _entry_points(self.folder):
                if named and self.package == METHODS.package and name in {*METHODS.names(), *ADDS.names()}:
                    raise InputError(_other(name, self.kind))
                raise InputError(f"unknown {self.kind} {name!r}{nearest(str(name), self.names())}{_searched()}")
            module = _entry_points(self.folder)[name]
        if module not in sys.modules:
            # Python relists a folder only when its time stamp changes, which a file written this instant may not cause.
            importlib.invalidate_caches()
        try:
            return getattr(importlib.import_module(module), self.factory)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit, which must not end the command as if it had succeeded
            mistake = self._mistake(name, error)
            raise InputError(f"expected {self.kind} {name!r} to import, found {mistake}; correct it") from error

    def _folders(self) -> list[Path]:
        return [Path(folder) for folder in importlib.import_module(self.package).__path__]

    def _members(self, folder: Path, name: str = "*.py") -> list[Path]:
        files = sorted(folder.glob(name)) if "*" in name else [folder / name]
        return [file for file in files if file.stem.isidentifier() and file.name[0] != "_" and self._defines(file)]

    def _defines(self, file: Path) -> bool:
        try:
            return re.search(rf"^def {self.factory}\(".encode(), file.read_bytes(), re.MULTILINE) is not None
        except OSError:  # a folder, or a link to nothing
            return False

    def _mistake(self, name: str, error: BaseException) -> str:
        """The error of an import, with the innermost line in this room."""
        reason = (str(error).splitlines() or ["no message"])[0]
        if isinstance(error, SyntaxError) and error.filename:
            spots, reason = [(error.filename, error.lineno)], error.msg
        else:
            folders, frames = self._folders(), traceback.extract_tb(error.__traceback__)
            spots = [(frame.filename, frame.lineno) for frame in frames if Path(frame.filename).parent in folders]
        file, line = spots[-1] if spots else (f"{name}.py", None)
        return f"{type(error).__name__} ({reason}) in {file}" + (f", line {line}" if line else "")


@functools.lru_cache(maxsize=256)
def _made(factory: Callable[..., Any], common: str, args: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> Any:
    return _called(factory, common, args, dict(options))


def _called(factory: Callable[..., Any], common: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    shared = {option for option in _fields(_common(common)) if option in options and option not in _schema(factory)}
    if shared:
        product = _called(factory, "", args, {name: x for name, x in options.items() if name not in shared})
        return importlib.import_module(common).added(
            product, _common(common)(**{name: options[name] for name in shared})
        )
    kind = _dataclass(factory)
    if kind is None:
        return factory(*args, **options)
    names = {field.name for field in dataclasses.fields(kind)}
    own = kind(**{name: value for name, value in options.items() if name in names})
    return factory(own, *args, **{name: value for name, value in options.items() if name not in names})


@functools.lru_cache(maxsize=256)
def _dataclass(factory: Callable[..., Any]) -> type | None:
    """The dataclass that the factory's parameter `options` is annotated with."""
    if "options" not in inspect.signature(factory).parameters:
        return None
    kind = typing.get_type_hints(factory).get("options")
    return kind if dataclasses.is_dataclass(kind) else None


@functools.lru_cache(maxsize=256)
def _schema(factory: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    hints = typing.get_type_hints(factory)
    if (kind := _dataclass(factory)) is not None:
        return _fields(kind)
    return {
        p.name: (hints.get(p.name, Any), p.default)
        for p in inspect.signature(factory).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }


@functools.lru_cache(maxsize=256)
def _fields(kind: type | None) -> dict[str, tuple[Any, Any]]:
    """{field: (annotated type, default)} of a dataclass."""
    if kind is None:
        return {}
    hints = typing.get_type_hints(kind)
    return {field.name: (hints[field.name], field.default) for field in dataclasses.fields(kind)}


def _common(module: str) -> type | None:
    """The dataclass of a room's common options."""
    return importlib.import_module(module).Common if module else None


def _other(name: str, wanted: str) -> str:
    """What is wrong with the name of an add-on in place of a method's, or the other way round."""
    if wanted == METHODS.kind:
        return f"{name!r} is an add-on, which goes on any method: --config.method=full --config.adds={name}"
    return f"{name!r} is a method, and config.adds takes add-ons alone: --config.method={name}"


def _searched() -> str:
    """The searched user folders, as text for an error."""
    return f" (config.rooms: {', '.join(in_use())})" if in_use() else ""


@functools.lru_cache(maxsize=8)
def _entry_points(folder: str) -> dict[str, str]:
    """{name: module} that installed packages declare: `[project.entry-points."jaxfer.methods"]`."""
    return {point.name: point.module for point in importlib.metadata.entry_points(group=f"jaxfer.{folder}")}


METHODS = Room("method", "jaxfer.methods", "method")
MODELS = Room("model", "jaxfer.models", "port", reserved=("head",), common="jaxfer.models.neck")  # the task names it
TASKS = Room("task", "jaxfer.tasks", "task")
SOURCES = Room("data source", "jaxfer.data.sources", "source", shared=False)  # files change
# Add-ons live among the methods: `def add(method, port)` gives that method with something added.
ADDS = Room("add-on", "jaxfer.methods", "add")
ROOMS = (METHODS, MODELS, TASKS, SOURCES)
# `def recipe(facts, *, option=...)` fills in the stages of a config (`jaxfer.recipe`).
RECIPES = Room("recipe", "jaxfer.recipes", "recipe", shared=False)

# Passes the folders in use to child processes (loaders, members of a sweep).
VARIABLE = "JAXFER_ROOMS"


def beside(config: Path) -> tuple[str, ...]:
    """The folders with user files for a config, out of its own folder and the parent folder."""
    folders = dict.fromkeys((config.resolve().parent, config.resolve().parent.parent))
    return tuple(
        str(folder)
        for folder in folders
        if any(room._members(folder / room.folder) for room in (*ROOMS, ADDS, RECIPES))
    )


def in_use() -> tuple[str, ...]:
    """The folders of users' files in this process."""
    return tuple(folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder)


def copied(folder: str, target: Path) -> None:
    """Copies the rooms of a folder, and nothing else that lies there, to where another machine gets them from."""
    for room in (*ROOMS, ADDS, RECIPES):
        place = Path(folder, room.folder)
        if room._members(place):
            shutil.copytree(
                place, target / room.folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
            )


def use(folders: Iterable[str]) -> None:
    """Adds every room of these folders (`FOLDER/methods/x.py`, ...), in this process and those it starts.

    Raises:
      InputError: a name is already taken by the package or by another user file.
    """
    for folder in folders:
        for room in (*ROOMS, ADDS, RECIPES):
            room.use(Path(folder, room.folder))
        if folder not in in_use():
            os.environ[VARIABLE] = os.pathsep.join([*in_use(), folder])
