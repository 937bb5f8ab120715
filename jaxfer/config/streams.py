"""The section `config.stream`: its fields and their check."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from typing import Any

from jaxfer import schema
from jaxfer.config.experiment import Choice, StreamConfig
from jaxfer.data.prepare import DataConfig
from jaxfer.errors import InputError, nearest
from jaxfer.registry import SOURCES, TASKS

# What a stream without a task can't ask for, since each chooses rows by their labels or for them.
BY_LABEL = ("classes", "labels_per_class", "labels", "val_per_class", "sampling", "sampling_by")
# What holds out validation, which such a stream has none of.
HELD_OUT = ("val_by", "val_groups", "folds")
ROWS = ("own", "same", "pairs")
OF_MAIN = {"same": "the main data, augmented anew", "pairs": "partners from the main data"}


def stream_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """{field: annotation} of a stream with these values."""
    own = {name: kind for name, kind in typing.get_type_hints(StreamConfig).items() if name not in ("data", "source")}
    data = {name: kind for name, kind in typing.get_type_hints(DataConfig).items() if name != "workers"}
    if values.get("rows") in OF_MAIN:
        return {**own, "augment": data["augment"]}
    source = values.get("source")
    options = {} if source is None else {name: kind for name, (kind, _) in SOURCES.schema(source).items()}
    if taken := sorted(options.keys() & own.keys()):
        raise InputError(f"data source {source!r}: its option {taken[0]!r} is a stream's own field; rename the option")
    return {**own, **data, **options}


def unknown_field(name: str, field: str, values: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """What is wrong with a field that a stream of these values does not have."""
    where = f"config.stream.{name}.{field}"
    if (rows := values.get("rows")) in OF_MAIN and field not in known:
        return f"{where}: a stream with rows={rows!r} has {OF_MAIN[rows]}; remove it"
    return f"unknown field {where}{nearest(f'stream.{name}.{field}', [f'stream.{name}.{other}' for other in known])}"


def resolved(section: Mapping[str, Any], augment: tuple[str, ...]) -> tuple[tuple[str, StreamConfig], ...]:
    """The checked streams, by name.

    Args:
      section: `config.stream`.
      augment: of the main stream, which a second view of its examples has by default too.

    Raises:
      InputError: the first thing that is wrong.
    """
    return tuple((name, _stream(name, section[name], augment)) for name in sorted(section))


def _stream(name: str, values: Any, augment: tuple[str, ...]) -> StreamConfig:
    where = f"config.stream.{name}"
    if name == "raw":
        raise InputError(f"{where}: scores raw/... are those of parameters that are not averaged; rename the stream")
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected its fields as dict(...), found {values!r}")
    if not re.fullmatch(r"[a-z]\w*", name):
        raise InputError(f"{where}: a stream's name is of small letters, digits and _, found {name!r}; rename it")
    fields = stream_fields(values)
    for field in values:
        if field not in fields:
            raise InputError(unknown_field(name, field, values, fields))
    values = {field: schema.check(value, fields[field], f"{where}.{field}") for field, value in values.items()}
    own = {field: values[field] for field in ("rows", "batch_size", "task", "weight") if field in values}
    if own.get("rows", "own") not in ROWS:
        raise InputError(f"{where}.rows: expected one of {', '.join(ROWS)}, found {own['rows']!r}")
    if not own.get("task") and own.get("weight", StreamConfig.weight) != StreamConfig.weight:
        raise InputError(
            f"{where}.weight={own['weight']} is of the loss of its task, and it has none; set its task, or remove it"
        )
    if own.get("task"):
        try:
            TASKS.get(own["task"])
        except InputError as error:  # an unknown name, with the nearest ones
            raise InputError(f"{where}.task: {error}") from None
    if own.get("rows") in OF_MAIN:
        if own.get("batch_size"):
            what = "a second view has the examples" if own["rows"] == "same" else "there is a partner for each example"
            raise InputError(f"{where}.batch_size: {what} of the main batch; remove it")
        if own["rows"] == "pairs" and own.get("task"):
            raise InputError(f"{where}.task={own['task']}: partners are for a method that compares them; remove it")
        return StreamConfig(**own, data=DataConfig(augment=values.get("augment", augment)))
    if "source" not in values:
        raise InputError(f"{where}.source: expected one of {', '.join(SOURCES.names())}, found nothing")
    for field in BY_LABEL:
        if values.get(field) and not own.get("task"):
            raise InputError(
                f"{where}.{field}={values[field]} chooses examples by their labels, which stay sealed in a stream "
                "without a task; remove it, or set its task"
            )
    for field in HELD_OUT:
        if values.get(field) and not own.get("task"):
            raise InputError(
                f"{where}.{field}={values[field]!r} has no effect: a stream without a task has no validation; remove it"
            )
    data = {field: values[field] for field in typing.get_type_hints(DataConfig) if field in values}
    options = {field: value for field, value in values.items() if field not in data and field not in own}
    complete = SOURCES.complete(values["source"], options, where)
    complete = {option: value for option, value in complete.items() if value is not None}
    choice = Choice(name=values["source"], options=tuple(sorted(complete.items())))
    return StreamConfig(**own, data=DataConfig(**data), source=choice)
