"""Layouts by file: `families/x.py` defines `LAYOUTS`, the namings of checkpoints of family x."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from jaxfer.errors import InputError, nearest
from jaxfer.pretrained.layout import Layout


@functools.cache
def layouts() -> tuple[Layout, ...]:
    """Every layout, by file name and then in the file's order."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return tuple(layout for module in modules for layout in getattr(module, "LAYOUTS", ()))


def by_model_type(model_type: str, name: str = "hf") -> Layout:
    """The layout that reads checkpoints whose config.json says `model_type`; `InputError` names the nearest ones."""
    known = {kind: layout for layout in layouts() if layout.name == name for kind in layout.model_types}
    if model_type not in known:
        raise InputError(
            f"model_type {model_type!r} in config.json is of no family that jaxfer reads"
            f"{nearest(str(model_type), known)}: a new family is a model, a layout and a tiny case, see "
            "docs/extending.md"
        )
    return known[model_type]


def by_family(family: str, name: str) -> Layout:
    """The layout called `name` of the family; `InputError` names those it has."""
    known = {layout.name: layout for layout in layouts() if layout.family == family}
    if name not in known:
        families = sorted({layout.family for layout in layouts()})
        tail = nearest(name, known) if known else f"; families with layouts: {', '.join(families) or 'none'}"
        raise InputError(f"family {family!r} has no checkpoint layout {name!r}{tail}")
    return known[name]
