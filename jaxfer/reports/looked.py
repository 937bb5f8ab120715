"""A run looked at once more: its predictions of val, its data, how far its parameters moved. Test stays sealed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxfer.data.loader import Feed, eval_batches
from jaxfer.data.overview import copies
from jaxfer.data.prepare import opened_once
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError
from jaxfer.evals.likeness import likeness
from jaxfer.models.port import Port
from jaxfer.network import Network, of_state
from jaxfer.pretrained.ledger import Start
from jaxfer.rules import flatten
from jaxfer.runs.finished import FinishedRun
from jaxfer.runs.folder import stored_config
from jaxfer.stored import placed
from jaxfer.training import lineage
from jaxfer.training.evaluation import evaluate_split, reopened
from jaxfer.training.preflight import preflight

EXAMPLES, BATCH = 256, 64  # on which units are compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looked:
    """What was found.

    Attributes:
      finished: the run.
      data: what it read; of test the inputs alone.
      collected: what its task collects of each example of val; None where it was not evaluated.
      moved: {unit: ||w - w0|| / ||w0||}, in depth order; {} where the beginning is not known.
      alike: {unit below the head: CKA with the network that it began as}, on examples of val; likewise.
      notes: what could not be found, a line each.
      copies: of examples within and across splits, a line each.
    """

    finished: FinishedRun
    data: Dataset
    collected: Any
    moved: dict[str, float]
    alike: dict[str, float]
    notes: tuple[str, ...]
    copies: tuple[str, ...]

    @property
    def val(self) -> Split:
        """The validation split."""
        return self.data.splits["val"]

    @property
    def encodings(self) -> Sequence[Any]:
        """Of the model's inputs."""
        return self.finished.stage.spec.port.encodings


def look(folder: epath.Path, tasks: Container[str] = ()) -> Looked:
    """Opens a finished run and its data, evaluates val, and compares the parameters with those it began from.

    Args:
      folder: of the run.
      tasks: those of which val is evaluated; of another nothing is collected.

    Raises:
      InputError: the run is not finished, or its data can't be opened any more.
    """
    with opened_once():
        finished, experiment, data = reopened(folder, "val", "result", {})
        if data.classes != finished.classes or data.fingerprint != finished.result["lineage"]["data_sha256"]:
            raise InputError("the data has changed since the run")
        moved, alike, notes = {}, {}, []
        try:
            ready = preflight(stored_config(folder), folder)
            begun = lineage.begin(ready, folder)
            moved = movement(finished, begun.params)
            alike = likeness(
                _network(ready.stages[0].spec.port, begun),
                of_state(finished.stage, finished.state),
                list(_some(finished, data.splits["val"])),
            )
        except (InputError, OSError) as error:
            notes.append(f"How far each unit moved is not known: {error}.")
        splits = {**data.splits, **({"test": data.sealed} if data.sealed is not None else {})}
        found = copies(splits)
        collected = None
        if (finished.stage.config.task or experiment.task.name) in tasks:
            from jaxfer.parallel.placement import placement

            where, spec = placement(experiment.parallel), finished.stage.spec
            state = where.place(spec, finished.state.replace(hparams={}, key=None, opt_state=()))
            size = experiment.run.eval_batch_size
            collected = evaluate_split(spec, state, data.splits["val"], where, size).collected
    return Looked(
        finished=finished,
        data=data,
        collected=collected,
        moved=moved,
        alike=alike,
        notes=tuple(notes),
        copies=found,
    )


def _network(port: Port, begun: Start) -> Network:
    """The plain network that a run began as."""
    return Network(port=port.with_parts(()), params=placed(begun.params), model_state=placed(begun.model_state))


def _some(finished: FinishedRun, val: Split) -> Iterator[dict[str, np.ndarray]]:
    """Inputs of some examples of val, evenly spread, in batches without padding."""
    chosen = val.take(np.linspace(0, len(val) - 1, min(len(val), EXAMPLES)).round().astype(int)).sealed()
    port = finished.stage.spec.port
    batches = eval_batches(Feed(split=chosen, encodings=port.encodings), batch_size=min(BATCH, len(chosen)))
    for batch in batches:
        kept = batch.pop("mask") > 0
        yield {name: batch[name][kept] for name in port.inputs}


def movement(finished: FinishedRun, params: Any) -> dict[str, float]:
    """{unit: ||w - w0|| / ||w0||} of the parameters that the run began with and still has, merged where it can be."""
    begun: dict[str, Any] = flatten(params)
    stage, port = finished.stage, finished.stage.spec.port
    merged = stage.spec.method.merge is not None
    ended = flatten(stage.leave(finished.state)[0] if merged else finished.state.params)
    sums: dict[str, list[float]] = {}
    for path, before in begun.items():
        after, unit = ended.get(path), port.unit(path)
        if after is None or unit is None or np.shape(after) != np.shape(before):
            continue
        x, y = np.asarray(before, np.float64), np.asarray(after, np.float64)
        total = sums.setdefault(unit, [0.0, 0.0])
        total[0] += float(np.sum((y - x) ** 2))
        total[1] += float(np.sum(x**2))
    units = [unit for unit in port.units if unit in sums]
    return {unit: math.sqrt(sums[unit][0] / sums[unit][1]) for unit in units if sums[unit][1]}
