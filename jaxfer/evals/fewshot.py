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
from jaxfer.training.features import Features, features


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
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> dict[str, dict[str, float]]:
    """Accuracy of classifiers that read features alone; nothing is trained, nothing is chosen on the split.

    With `way` n-way k-shot episodes are drawn from the split: support and queries are both of it. Without it the whole
    training split is the support, and the whole split are the queries.

    Args:
      run: its folder; or a checkpoint, as `config.init` names one, on the data that `overrides` name. Several are
        fused (late fusion): their features lie side by side, those of each of length 1.
      split: `train`, `val` or `test`; without episodes not `train`.
      classifiers: `prototypes`, `simpleshot`, `knn`, `logistic`; of a classifier of these classes also `tip` and
        `zero-shot`, its own outputs, as for a run that started with `config.head=prompts`.
      way: classes of an episode.
      shot: labelled examples a class.
      queries: examples a class to tell.
      episodes: how many.
      seed: of the episodes.
      checkpoint: of a run: `result`, `last` or `best`.
      overrides: {"data.x": value}, as on the command line.
      quiet: leave out the notes on what was assumed of a checkpoint.

    Returns:
      {classifier: {"accuracy": mean over the episodes, "half_width": of its 95 % t interval, "episodes": how many}}; of
      a whole split `accuracy` and `examples`.

    Raises:
      InputError: as of `features`; an unknown classifier; data without classes; too few examples; runs that read
        other examples than the first one.
    """
    known = (*drawing.CLASSIFIERS, *drawing.OF_LOGITS)
    for name in classifiers:
        if name not in known:
            raise InputError(
                f"--classifiers: expected some of {', '.join(known)}, found {name!r}{nearest(name, known)}"
            )
    if not classifiers:
        raise InputError(f"--classifiers: expected some of {', '.join(known)}, found none")
    for name, value in (("way", way), ("shot", shot), ("queries", queries), ("episodes", episodes)):
        if value is not None and value < (2 if name == "way" else 1):
            raise InputError(f"--{name}: expected a positive integer{', 2 at least' * (name == 'way')}, found {value}")
    runs = [run] if isinstance(run, (str, os.PathLike)) else list(run)
    if not runs:
        raise InputError("expected a run or a checkpoint, found none; name one")
    if len(runs) > 1 and (reading := [name for name in classifiers if name in drawing.OF_LOGITS]):
        raise InputError(f"--classifiers: {reading[0]} reads the outputs of one model, found {len(runs)}; leave it out")
    if way is None and split == "train":
        raise InputError("--split=train: the training split is the support itself; choose val or test, or give --way")
    given = dict(checkpoint=checkpoint, overrides=overrides, quiet=quiet)

    def one(run: str | epath.Path, split: str) -> tuple[np.ndarray, np.ndarray, Features]:
        found = features(run, split=split, **given)
        if found.label is None or found.label.ndim != 1 or not np.issubdtype(found.label.dtype, np.integer):
            raise InputError("few-shot evaluation needs one class for each example; the data has other labels or none")
        if len(found.shape) != 2:
            raise InputError(
                f"few-shot evaluation needs one vector for each example, and the output layer reads {found.shape[1:]}"
            )
        return found.arrays()["features"].astype(np.float64), found.label, found

    def read(split: str) -> tuple[np.ndarray, np.ndarray, Features]:
        (x, labels, first), *others = (one(run, split) for run in runs)
        for run, (_, other, found) in zip(runs[1:], others, strict=True):
            same = (found.about["data_sha256"], list(found.row), list(other))
            if same != (first.about["data_sha256"], list(first.row), list(labels)):
                raise InputError(f"{run}: its {split} examples are not those of {runs[0]}; leave it out")
        parts = [x, *(x for x, *_ in others)]
        return np.concatenate([drawing.unit(part) for part in parts], 1) if others else x, labels, first

    x, labels, about = read(split)
    logits = None
    if any(name in drawing.OF_LOGITS for name in classifiers):
        logits = _logits(runs[0], split, given, len(about.about["classes"]))
    if way is not None:
        drawn = drawing.episodes(labels, way=way, shot=shot, queries=queries, count=episodes, seed=seed)
        found = drawing.accuracies(x, logits, drawn, tuple(classifiers))
        means = {name: mean_interval(values) for name, values in found.items()}
        return {
            name: {"accuracy": mean, "half_width": half, "episodes": episodes} for name, (mean, half) in means.items()
        }
    of, own, _ = read("train")
    support, table = drawing.Support(of, own, len(about.about["classes"])), {}
    for name in classifiers:
        scores = (drawing.CLASSIFIERS | drawing.OF_LOGITS)[name](support, x, logits)
        table[name] = {"accuracy": float((scores.argmax(1) == labels).mean()), "examples": len(labels)}
    return table


def _logits(run: str | epath.Path, split: str, given: Mapping[str, Any], classes: int) -> np.ndarray:
    """The outputs of the model's own head, which has to be one of these classes."""
    found = features(run, unit="head", split=split, **given)
    if len(found.shape) != 2 or found.shape[1] != classes:
        raise InputError(
            f"tip and zero-shot read outputs of the data's {classes} classes, the model gives {found.shape[1:]}; leave "
            "them out"
        )
    return found.arrays()["features"].astype(np.float64)
