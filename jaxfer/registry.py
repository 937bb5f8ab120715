"""Rooms found by file: `jaxfer/methods/x.py` is the method `x`, and its factory's signature is its schema.

A room is a package whose modules each define one factory of the same name: `jaxfer.methods.*.method`,
`jaxfer.models.*.port`, `jaxfer.tasks.*.task`, `jaxfer.data.sources.*.source`. Keyword-only parameters with an
annotation and a default are what a config may set.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxfer.errors import InputError, nearest


@dataclass(frozen=True)
class Room:
    """One kind of thing found by file.

    Attributes:
      kind: the word errors use (`method`).
      package: where its modules lie.
      factory: the function every module defines.
    """

    kind: str
    package: str
    factory: str

    def names(self) -> tuple[str, ...]:
        """Every name in the room, sorted; modules that define no factory (shared code) are not members."""
        package = importlib.import_module(self.package)
        found = (info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_"))
        return tuple(sorted(name for name in found if hasattr(self._module(name), self.factory)))

    def make(self, name: str, *args: Any, **options: Any) -> Any:
        """The factory's product; the same arguments give the same object, so that compiled programs are shared."""
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
        """The factory called `name`; `InputError` with the nearest names if there is none."""
        if not isinstance(name, str) or not name.isidentifier() or name not in self.names():
            raise InputError(f"unknown {self.kind} {name!r}{nearest(str(name), self.names())}")
        return getattr(self._module(name), self.factory)

    def _module(self, name: str) -> Any:
        return importlib.import_module(f"{self.package}.{name}")


@functools.lru_cache(maxsize=256)
def _make(room: Room, name: str, args: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> Any:
    return room.get(name)(*args, **dict(options))


METHODS = Room("method", "jaxfer.methods", "method")
MODELS = Room("model", "jaxfer.models", "port")
TASKS = Room("task", "jaxfer.tasks", "task")
SOURCES = Room("data source", "jaxfer.data.sources", "source")
