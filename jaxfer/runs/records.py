"""Fields read from a run's JSON files, with their types; `json_files` checks them where a file is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict


class _Model(TypedDict):
    name: str


class StoredConfig(TypedDict):
    """The fields of config.json that are read before `config.resolve` checks all of it."""

    init: str
    model: _Model


class _Weights(TypedDict):
    sha256: str


class Source(TypedDict):
    """The fields of a source run's result.json that a run starting from it reads."""

    lineage: _Weights


class _Lineage(_Weights):
    init: str
    data_sha256: str


class Lineage(_Lineage, total=False):
    """The ancestry of a run's weights."""

    source_sha256: str | None
    source: Mapping[str, Any]


class _Cost(TypedDict):
    params_trainable: int
    params_total: int
    seconds: float


class Result(TypedDict):
    """The fields of result.json that other commands go by."""

    metrics: Mapping[str, Mapping[str, Any]]
    cost: _Cost
    seed: int
    steps: int
    checkpoint_step: int
    classes: tuple[str, ...]
    examples: Mapping[str, int]
    lineage: Lineage
    versions: Mapping[str, Any]


class Line(TypedDict):
    """The fields that every line of metrics.jsonl has."""

    step: int
    split: str


class Selection(TypedDict):
    """The field of a comparison's selection.json that the seal goes by."""

    opened: tuple[str, ...]


class Opened(TypedDict):
    """A comparison's opened.json."""

    time: str


class Diverged(TypedDict):
    """The diverged.json of a sweep's cell."""

    message: str
