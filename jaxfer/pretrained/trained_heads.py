"""Output layers that a finished run leaves: that of its own task, and one for each stream with a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfer.rules import flatten
from jaxfer.runs.finished import FinishedRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """One of them.

    Attributes:
      stream: its stream's name; empty: it is the run's own.
      trained_on: (sha256 of the data, names of the classes).
      own: path that it has in a model of its own (`models.parts.Part`).
      stored: path that it has in the run's.
      leaves: {path below: leaf}.
    """

    stream: str
    trained_on: tuple[str, tuple[str, ...]]
    own: str
    stored: str
    leaves: Mapping[str, Any]


def trained_heads(run: FinishedRun) -> tuple[TrainedHead, ...]:
    """The run's own first, as the plain model has them that it leaves; where it leaves none, as the run itself."""
    plain = run.stage.spec.method.merge is not None
    leaves = flatten(run.stage.leave(run.state, heads=True)[0] if plain else run.state.params)
    port, lineage, streams = run.stage.spec.port, run.result["lineage"], run.result.get("streams", {})
    parts = {f"{part.part.path}/": part.part for part in port.parts}

    def below(path: str, besides: tuple[str, ...] = ()) -> dict[str, Any]:
        found = {name: leaf for name, leaf in leaves.items() if name.startswith(f"{path}/")}
        return {name.removeprefix(f"{path}/"): x for name, x in found.items() if not name.startswith(besides)}

    main = TrainedHead(
        stream="",
        trained_on=(lineage["data_sha256"], run.classes),
        own=port.head,
        stored=port.head,
        leaves=below(port.head, (*parts,)),
    )
    return main, *(
        TrainedHead(
            stream=part.name,
            trained_on=(lineage["streams"][part.name], tuple(streams[part.name]["classes"])),
            own=part.own,
            stored=part.path,
            leaves=below(part.path),
        )
        for part in parts.values()
    )
