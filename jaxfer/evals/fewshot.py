"""Few labelled examples on the frozen features of a run or a checkpoint: episodes, or the whole training split."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxfer.errors import InputError, nearest
from jaxfer.evals import episodes as drawing
from jaxfer.evals.intervals import mean_interval
from jaxfer.training.features import features


def fewshot(
    run: str | epath.Path | Sequence[str | epath.Path],
    *,
    split: str = "val",
    classifiers: Sequence[str] = tuple(drawing.CLASSIFIERS),
    way: int | None = None,
    shot: int = 1,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
    checkpoint: str = "result",
    alpha: float | None = None,
    beta: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> dict[str, dict[str, float]]:
    """Accuracy of classifiers that read features alone; the model is not trained, nothing is chosen on the split.

    With `way` n-way k-shot episodes are drawn from the split: support and queries are both of it. Without it the whole
    training split is the support, and the whole split are the queries.

    Args:
      run: its folder; or a checkpoint, as `config.init` names one, on the data that `overrides` name. Several are
        fused (late fusion): their features lie side by side, those of each of length 1.
      split: `train`, `val` or `test`; without episodes not `train`.
      classifiers: `prototypes`, `simpleshot`, `knn`, `logistic`; of a classifier of these classes also `tip`,
        `tip-f` and `zero-shot`, its own outputs, as for a run that started with `config.head=prompts`.
      way: classes of an episode.
      shot: labelled examples a class.
      queries: examples a class to tell.
      episodes: how many.
      seed: of the episodes.
      checkpoint: of a run: `result`, `last` or `best`.
      alpha: of `tip` and `tip-f`, the weight of the memory; None: 1. The paper searches both on val.
      beta: likewise its sharpness; None: 5.5.
      overrides: {"data.x": value}, as on the command line.
      quiet: leave out the notes on what was assumed of a checkpoint.

    Returns:
      {classifier: {"accuracy": mean over the episodes, "half_width": of its 95 % t interval, "episodes": how many}}; of
      a whole split `accuracy` and `examples`.

    Raises:
      InputError: as of `features`; an unknown classifier; data without classes; too few examples; runs that read
        other examples than the first one.
    """
    runs = [run] if isinstance(run, str | os.PathLike) else list(run)
    _check(runs, split, classifiers, way=way, shot=shot, queries=queries, episodes=episodes)
    memory = _memory(classifiers, alpha=alpha, beta=beta)
    given = dict(checkpoint=checkpoint, overrides=overrides, quiet=quiet)
    found = _fused(runs, split, given)
    reads_logits = any(name in drawing.OF_LOGITS for name in classifiers)
    logits = _logits(runs[0], split, given, found.classes) if reads_logits else None
    if way is not None:
        drawn = drawing.episodes(found.labels, way=way, shot=shot, queries=queries, count=episodes, seed=seed)
        each = drawing.accuracies(found.x, logits, drawn, tuple(classifiers), **memory)
        means = {name: mean_interval(values) for name, values in each.items()}
        return {name: dict(accuracy=mean, half_width=half, episodes=episodes) for name, (mean, half) in means.items()}
    support, table = _fused(runs, "train", given), {}
    if "tip-f" in classifiers:
        support = support._replace(logits=_logits(runs[0], "train", given, found.classes))
    for name in classifiers:
        scores = drawing.classifier(name, **memory)(support, found.x, logits)
        table[name] = {"accuracy": float((scores.argmax(1) == found.labels).mean()), "examples": len(found.labels)}
    return table


def _check(
    runs: Sequence[str | epath.Path], split: str, classifiers: Sequence[str], *, way: int | None, **numbers: int
) -> None:
    known = (*drawing.CLASSIFIERS, *drawing.OF_LOGITS)
    unknown = [name for name in classifiers if name not in known]
    if unknown or not classifiers:
        found = f"{unknown[0]!r}{nearest(unknown[0], known)}" if unknown else "none"
        raise InputError(f"--classifiers: expected some of {', '.join(known)}, found {found}")
    if way is not None and way < 2:
        raise InputError(f"--way: expected 2 classes or more, found {way}")
    for name, value in numbers.items():
        if value < 1:
            raise InputError(f"--{name}: expected a positive integer, found {value}")
    if not runs:
        raise InputError("expected a run or a checkpoint, found none; name one")
    if len(runs) > 1 and (reading := [name for name in classifiers if name in drawing.OF_LOGITS]):
        raise InputError(f"--classifiers: {reading[0]} reads the outputs of one model, found {len(runs)}; leave it out")
    if way is None and split == "train":
        raise InputError("--split=train: the training split is the support itself; choose val or test, or give --way")


def _memory(classifiers: Sequence[str], **given: float | None) -> dict[str, float]:
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if not 0 <= value < float("inf"):
            raise InputError(f"--{name}: expected a finite number, 0 or more, found {value}")
        if not set(classifiers) & set(drawing.OF_MEMORY):
            raise InputError(
                f"--{name}: is of tip and tip-f, found --classifiers={','.join(classifiers)}; name one there"
            )
    return given


def _fused(runs: Sequence[str | epath.Path], split: str, given: Mapping[str, Any]) -> drawing.Support:
    """A split's features, those of several runs side by side, and its labels."""
    found = [features(run, split=split, **given) for run in runs]
    first = found[0]
    for run, other in zip(runs, found, strict=True):
        if other.label is None or other.label.ndim != 1 or not np.issubdtype(other.label.dtype, np.integer):
            raise InputError("few-shot evaluation needs one class for each example; the data has other labels or none")
        if len(other.shape) != 2:
            reads = f"the output layer of {run} reads {list(other.shape[1:])}"
            raise InputError(f"few-shot evaluation needs one vector for each example, and {reads}")
        if (other.about["data_sha256"], list(other.row)) != (first.about["data_sha256"], list(first.row)):
            raise InputError(f"{run}: its {split} examples are not those of {runs[0]}; leave it out")
    parts = [other.arrays()["features"].astype(np.float64) for other in found]
    x = parts[0] if len(parts) == 1 else np.concatenate([drawing.unit(part) for part in parts], 1)
    return drawing.Support(x, first.label, len(first.about["classes"]))


def _logits(run: str | epath.Path, split: str, given: Mapping[str, Any], classes: int) -> np.ndarray:
    """The outputs of the model's own head, which has to be one of these classes."""
    found = features(run, unit="head", split=split, **given)
    if len(found.shape) != 2 or found.shape[1] != classes:
        read = f"read outputs of the data's {classes} classes, the model gives {found.shape[1:]}"
        raise InputError(f"tip, tip-f and zero-shot {read}; leave them out")
    return found.arrays()["features"].astype(np.float64)
