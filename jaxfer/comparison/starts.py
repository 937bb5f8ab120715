"""What the arms of a comparison start from: the config's own source, and those of `config.compare.sources`.

A source is a value of `config.init`, or a section that sets `init`, `model`, `data` and how weights are taken over: so
arms may be methods, checkpoints of any families, or training data. All are judged on the same val and test examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxfer import config as configs
from jaxfer.data.split import Split
from jaxfer.errors import InputError, nearest
from jaxfer.pretrained.agreement import described
from jaxfer.runs.history import flattened
from jaxfer.sweeps.cells import Job, follow
from jaxfer.training.checked import Preflight
from jaxfer.training.filled import filled
from jaxfer.training.preflight import preflight

FIELDS = ("init", "head", "differs", "init_options", "model", "data")
AMOUNTS = ("labels_per_class", "labels", "val_per_class", "val_fraction")  # the same for every arm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What some arms start from.

    Attributes:
      config: the comparison's base config with that source's changes, complete.
      ready: its preflight.
      assumed: of its checkpoint, a line each.
    """

    config: ConfigDict
    ready: Preflight
    assumed: tuple[str, ...] = ()


def make_start(config: ConfigDict, before: Mapping[str, Job]) -> Start:
    """That of a config as `jaxfer.load` returns it, after these cells.

    Raises:
      InputError: whatever `run` would refuse.
    """
    known = described(follow(config, before))
    config = filled(known.config, preflight).config
    return Start(config=config, ready=preflight(config), assumed=known.notes)


def make_starts(
    config: ConfigDict, base: Start, sources: Mapping[str, Any], before: Mapping[str, Job]
) -> dict[str, Start]:
    """{name: start} of these sources, and the config's own under the empty name.

    Args:
      config: as `jaxfer.load` returns it.
      base: its own start.
      sources: {name: a value of `config.init`, or a section of `FIELDS`}.
      before: the cells that `sibling:NAME` names.

    Raises:
      InputError: whatever `run` would refuse, other fields than these, or other classes, val or test than the base's.
    """
    return {"": base} | {name: _named(name, value, config, base, before) for name, value in sources.items()}


def _named(name: str, value: Any, config: ConfigDict, base: Start, before: Mapping[str, Job]) -> Start:
    where = f"config.compare.sources.{name}"
    if not isinstance(value, Mapping):
        return dataclasses.replace(base, config=configs.override(base.config, {"init": value}))
    changes = flattened(value)
    for field in changes:
        head, _, rest = field.partition(".")
        if head not in FIELDS:
            raise InputError(f"{where}.{field}: a source can't set this{nearest(head, FIELDS)}")
        if head == "data" and rest in AMOUNTS:
            raise InputError(f"{where}.{field}: the same for every arm; set config.{field} or config.compare.labels")
    try:
        start = make_start(configs.override(config, changes), before)
        if any(field.startswith("data.") for field in changes):
            _check_same(*(preflight(configs.override(c, {"test": True})) for c in (base.config, start.config)))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return start


def _check_same(base: Preflight, other: Preflight) -> None:
    """`InputError` unless both are judged on the same examples of the same classes."""
    if base.data.classes != other.data.classes:
        found = f"{', '.join(other.data.classes)}, not {', '.join(base.data.classes)}"
        raise InputError(f"its classes are {found}, so its scores can't be compared")
    for name in ("val", "test"):
        if not _same(base.data.splits[name], other.data.splits[name]):
            raise InputError(f"its {name} examples are not those of the other arms; change what is trained on alone")


def _same(one: Split, other: Split) -> bool:
    """Whether two splits hold the same examples in the same order."""
    if len(one) != len(other) or one.columns.keys() != other.columns.keys():
        return False
    for name, column in one.columns.items():
        theirs = other.columns[name]
        if column.sha256 == theirs.sha256 and np.array_equal(one.rows, other.rows):
            continue
        pairs = [(int(row), int(their_row)) for row, their_row in zip(one.rows, other.rows, strict=True)]
        if hasattr(column, "key") and hasattr(theirs, "key"):
            equal = (column.key(row) == theirs.key(their_row) for row, their_row in pairs)
        else:
            equal = (np.array_equal(column[row], theirs[their_row]) for row, their_row in pairs)
        if not all(equal):
            return False
    return True
