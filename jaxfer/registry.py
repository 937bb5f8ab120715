"""Rooms found by file: `jaxfer/methods/x.py` is the method `x`, and its factory's signature is its schema.

A room is a package whose modules each define one factory of the same name: `jaxfer.methods.*.method`,
`jaxfer.models.*.port`, `jaxfer.tasks.*.task`, `jaxfer.data.sources.*.source`. Keyword-only parameters with an
annotation and a default are what a config may set. A module is imported when it is asked for and not before, so that
a file with a mistake in it stops no other.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import traceback
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfer.errors import InputError, nearest


@dataclass(frozen=True)
class Room:
    """One kind of thing found by file.

    Attributes:
      kind: the word errors use (`method`).
      package: where its modules lie.
      factory: the function every module defines.
      shared: the same arguments give the same product, and so share its compiled programs; False where a product
        depends on more than its arguments (files), and each module decides what it may keep.
    """

    kind: str
    package: str
    factory: str
    shared: bool = True

    def names(self) -> tuple[str, ...]:
        """Every name in the room, sorted: the files whose text has the factory's `def`, read and not imported.

        Other modules are shared code, and names that start with `_` are private.
        """
        files = (file for folder in self._folders() for file in folder.glob("[!_]*.py"))
        return tuple(sorted({file.stem for file in files if file.stem.isidentifier() and self._defines(file)}))

    def make(self, name: str, /, *args: Any, **options: Any) -> Any:
        """The factory's product; where the room is `shared`, the same arguments give the same object."""
        if not self.shared:
            return self.get(name)(*args, **options)
        return _make(self, name, args, tuple(sorted(options.items())))

    def schema(self, name: str) -> dict[str, tuple[Any, Any]]:
        """{option: (annotated type, default)} of the factory's keyword-only parameters that have a default."""
        factory = self.get(name)
        hints = typing.get_type_hints(factory)
        parameters = inspect.signature(factory).parameters.values()
        return {
            p.name: (hints.get(p.name, Any), p.default)
            for p in parameters
            if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
        }

    def get(self, name: str) -> Callable[..., Any]:
        """The factory called `name`; `InputError` if there is none or its file can't be imported."""
        if not isinstance(name, str) or not name.isidentifier() or name not in self.names():
            raise InputError(f"unknown {self.kind} {name!r}{nearest(str(name), self.names())}")
        module = f"{self.package}.{name}"
        if module not in sys.modules:
            # Python lists a folder again when its time stamp has moved, which a file of this very instant may not do.
            importlib.invalidate_caches()
        try:
            return getattr(importlib.import_module(module), self.factory)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit, which must not end the command as if it were done
            found = self._mistake(name, error)
            raise InputError(f"expected {self.kind} {name!r} to import, found {found}; correct it") from error

    def _folders(self) -> list[Path]:
        return [Path(folder) for folder in importlib.import_module(self.package).__path__]

    def _defines(self, file: Path) -> bool:
        try:
            return re.search(rf"^def {self.factory}\(".encode(), file.read_bytes(), re.MULTILINE) is not None
        except OSError:  # a folder, or a link to nothing
            return False

    def _mistake(self, name: str, error: BaseException) -> str:
        """What went wrong in an import, and the innermost line of this room at which it did."""
        reason = (str(error).splitlines() or ["no message"])[0]
        if isinstance(error, SyntaxError) and error.filename:
            spots, reason = [(error.filename, error.lineno)], error.msg
        else:
            folders, frames = self._folders(), traceback.extract_tb(error.__traceback__)
            spots = [(frame.filename, frame.lineno) for frame in frames if Path(frame.filename).parent in folders]
        file, line = spots[-1] if spots else (f"{name}.py", None)
        return f"{type(error).__name__} ({reason}) in {file}" + (f", line {line}" if line else "")


@functools.lru_cache(maxsize=256)
def _make(room: Room, name: str, args: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> Any:
    return room.get(name)(*args, **dict(options))


METHODS = Room("method", "jaxfer.methods", "method")
MODELS = Room("model", "jaxfer.models", "port")
TASKS = Room("task", "jaxfer.tasks", "task")
SOURCES = Room("data source", "jaxfer.data.sources", "source", shared=False)  # files change
