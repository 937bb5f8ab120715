"""`jaxfer select`: scores of finished runs on a target whose labels stay sealed, and what each score would choose."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from scipy.special import log_softmax, softmax

from jaxfer.config.experiment import Experiment, ParallelConfig
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError, nearest
from jaxfer.evals import unsupervised_selection as scores
from jaxfer.models.port import FEATURES
from jaxfer.network import Network, of_state
from jaxfer.parallel.placement import placement
from jaxfer.runs.finished import FinishedRun
from jaxfer.training import streams
from jaxfer.training.evaluation import reopened

VAL, ORACLE = "val", "oracle"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """What `select` found.

    Attributes:
      runs: {folder: {score: value}}: those of `unsupervised_selection.SCORES`; `val`, accuracy on the source's
        validation split; `oracle`, accuracy on the target's test split, None where the run left it sealed.
      chosen: {score: folder}; that of `oracle` is chosen on labels of the target, and is no result of a method that has
        none. Absent where a run has no such score.
    """

    runs: Mapping[str, Mapping[str, float | None]]
    chosen: Mapping[str, str]


def select(runs: Sequence[str | epath.Path], *, stream: str = "target") -> Selection:
    """Scores finished runs of one classification on the training inputs of an unlabelled stream.

    The weights of the source's validation examples are of features that the output layer reads: of the training splits
    of both domains.

    Args:
      runs: their folders, of the same source and target.
      stream: of their configs, without a task.

    Raises:
      InputError: another task, no such stream, other data than the first run's, or a model whose output layer reads
        more than one vector.
    """
    if isinstance(runs, str) or not runs:
        raise InputError(f"expected folders of finished runs, found {runs!r}")
    found, first = {}, None
    for run in map(str, runs):
        finished, experiment, data = reopened(run, "val", "result", {})
        _check(run, finished, experiment, stream)
        target = streams.with_streams(experiment, data).streams[stream]
        about = data.fingerprint, target.fingerprint
        first = first or about
        if about != first:
            raise InputError(f"{run}: its source or its target is not that of {runs[0]}; leave it out")
        found[run] = _scored(finished, experiment, data, target.splits["train"], stream)
    better = {**scores.SCORES, VAL: True, ORACLE: True}
    known = [name for name in better if all(values[name] is not None for values in found.values())]
    chosen = {name: (max if better[name] else min)(found, key=lambda run: found[run][name]) for name in known}
    return Selection(runs=found, chosen=chosen)


def _check(run: str, finished: FinishedRun, experiment: Experiment, stream: str) -> None:
    task, named = finished.stage.config.task or experiment.task.name, dict(experiment.streams)
    if task != "classification":
        raise InputError(f"{run}: scores are of predicted classes, its task is {task!r}; leave it out")
    if stream not in named or named[stream].task:
        unlabelled = [name for name, other in named.items() if not other.task]
        raise InputError(f"{run}: its config has no unlabelled stream {stream!r}{nearest(stream, unlabelled)}")
    if len(finished.stage.spec.port.features) != 1:
        raise InputError(f"{run}: its output layer reads more than one vector of an example; leave it out")


def _scored(
    finished: FinishedRun, experiment: Experiment, data: Dataset, target: Split, stream: str
) -> dict[str, float | None]:
    network, size = of_state(finished.stage, finished.state), experiment.run.eval_batch_size
    train, val, unlabelled = (
        _passed(network, split, size) for split in (data.splits["train"], data.splits["val"], target)
    )
    labels = data.splits["val"].labels
    losses = -log_softmax(val["outputs"], -1)[np.arange(len(labels)), labels]
    weights = scores.importance_weights(train[FEATURES], unlabelled[FEATURES], val[FEATURES])
    chances = softmax(unlabelled["outputs"], -1)
    test = finished.result["metrics"].get("test", {})
    return {
        "entropy": scores.entropy(chances),
        "snd": scores.soft_neighborhood_density(chances),
        "weighted_risk": scores.weighted_risk(weights, losses),
        "dev": scores.deep_embedded_validation(weights, losses),
        VAL: float((val["outputs"].argmax(-1) == labels).mean()),
        ORACLE: test.get(f"{stream}/accuracy"),
    }


def _passed(network: Network, split: Split, size: int) -> dict[str, np.ndarray]:
    """Features and outputs [n, ...] of a split in evaluation mode, on one device."""
    where, feed, parts = placement(ParallelConfig(devices=1)), Feed(split=split, encodings=network.port.encodings), []

    @jax.jit
    def step(arrays: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        passed = network.with_arrays(*arrays)(batch, taps=(FEATURES,))
        return {FEATURES: passed.taps[FEATURES], "outputs": passed.outputs}

    arrays, size = jax.device_put(network.arrays, where.replicated), min(size, len(split))
    for batch in where.feed(eval_batches(feed, batch_size=size), train=False):
        real = np.asarray(batch.pop("mask")) > 0
        parts.append(jax.tree.map(lambda x, real=real: np.asarray(x, np.float64)[real], step(arrays, batch)))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
