"""Output layers that a finished run leaves: that of its own task, and those of its streams with a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfer import files
from jaxfer.rules import flatten
from jaxfer.runs.finished import FinishedRun

LWF = "lwf/"  # under which that method trains the source's head on


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """An output layer that a finished run leaves.

    Attributes:
      stream: its stream's name; empty: it is the run's own.
      trained_on: (sha256 of the data, names of the classes).
      own: path that it has in a model of its own (`models.parts.Part`).
      stored: path that it has in the run's.
      leaves: {path below: leaf}.
      moved: whether the run trained it; else it is the source's, as it was.
    """

    stream: str
    trained_on: tuple[str, tuple[str, ...]]
    own: str
    stored: str
    leaves: Mapping[str, Any]
    moved: bool = True


def trained_heads(run: FinishedRun, params: Any) -> tuple[TrainedHead, ...]:
    """The run's own first. A head that was drawn for a stream and never trained is none.

    Where `lwf` trained the source's head on, that stands for the stream that has the source's head.

    Args:
      run: a finished one.
      params: its parameters with the heads of its streams: those of its merged model, where it has one.
    """
    leaves, port, lineage = flatten(params), run.stage.spec.port, run.result["lineage"]
    parts, weights = {f"{part.part.path}/": part.part for part in port.parts}, dict(run.experiment.streams)
    trained_on = {name: tuple(told["classes"]) for name, told in run.result.get("streams", {}).items()}

    def below(path: str, tree: Mapping[str, Any] = leaves, besides: tuple[str, ...] = ()) -> dict[str, Any]:
        found = {name: leaf for name, leaf in tree.items() if name.startswith(f"{path}/")}
        return {name.removeprefix(f"{path}/"): x for name, x in found.items() if not name.startswith(besides)}

    main = TrainedHead(
        stream="",
        trained_on=(lineage["data_sha256"], run.classes),
        own=port.head,
        stored=port.head,
        leaves=below(port.head, besides=(*parts,)),
    )
    if not parts:
        return (main,)
    ledger = files.read_json(run.folder / "ledger.json")["leaves"]
    kept = below(f"{LWF}{port.head}", flatten(run.state.params))
    found = [main]
    for part in parts.values():
        own, moved = below(part.path), weights[part.name].weight > 0
        origins = {ledger.get(f"params/{part.path}/{name}", {}).get("from") for name in own}
        if kept and origins == {f"params/{port.head}/{name}" for name in own}:
            own, moved = kept, True
        if moved or None not in origins:
            on = lineage["streams"][part.name], trained_on[part.name]
            found.append(
                TrainedHead(stream=part.name, trained_on=on, own=part.own, stored=part.path, leaves=own, moved=moved)
            )
    return tuple(found)
