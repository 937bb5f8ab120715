"""`jaxfer.ensemble`: finished runs, of any models, answer together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from scipy.special import expit, logit, softmax

from jaxfer.errors import InputError, nearest
from jaxfer.parallel.placement import placement
from jaxfer.task import Mean
from jaxfer.training import predictions as tables
from jaxfer.training.evaluation import evaluate_split, reopened

COMBINE = ("probabilities", "votes")
TASKS = ("classification", "multilabel", "regression")


def ensemble(
    runs: Sequence[str | epath.Path],
    *,
    split: str = "val",
    combine: str = "probabilities",
    overrides: Mapping[str, Any] | None = None,
    predictions: str | epath.Path | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluates finished runs together and each by itself.

    Args:
      runs: their folders; of one task, the same classes and the same examples.
      split: `val`, `test` or `train`.
      combine: `probabilities`, whose mean is the answer (of a regression: the mean of the values), or `votes`, the
        share of the runs whose likeliest class it is; of equal shares the mean probability decides.
      overrides: {"data.x": value} for every run, as of `jaxfer.evaluate`.
      predictions: of a classification, the .csv to write, as of `jaxfer.evaluate`.

    Returns:
      {"ensemble": {metric: value}, each run's folder: likewise}.

    Raises:
      InputError: no runs, another task, other classes or examples than the first run's, or what `jaxfer.evaluate`
        refuses.
    """
    if combine not in COMBINE:
        raise InputError(f"--combine: expected {' or '.join(COMBINE)}, found {combine!r}{nearest(combine, COMBINE)}")
    if isinstance(runs, str) or len(runs) < 2 or len(set(map(str, runs))) < len(runs):
        raise InputError(f"expected the folders of at least two different runs, found {runs!r}")
    place = None if predictions is None else tables.destination(predictions)
    first, metrics, outputs = None, {}, []
    for run in runs:
        finished, experiment, data = reopened(run, split, "result", overrides or {})
        kind = finished.stage.config.task or experiment.task.name
        examples = data.splits[split]
        if kind not in TASKS:
            raise InputError(f"{run}: an ensemble answers {', '.join(TASKS)}, its task is {kind!r}; leave it out")
        if place is not None:
            tables.check_task(kind)
        about = {"task": kind, "classes": data.classes, "examples": data.fingerprint}
        first = first or (about, finished.stage.spec.task, examples, data.classes)
        for what, value in about.items():
            if value != first[0][what]:
                raise InputError(f"{run}: its {what} are not those of {runs[0]}; leave it out, or set --config.data.*")
        state = finished.state.replace(hparams={}, key=None, opt_state=())
        where, spec, size = placement(experiment.parallel), finished.stage.spec, experiment.run.eval_batch_size
        found = evaluate_split(spec, where.place(spec, state), examples, where, size)
        metrics[str(run)] = found.metrics
        outputs.append(np.asarray(found.collected, np.float64))
    about, task, examples, classes = first
    joint = combined(np.stack(outputs), about["task"], combine).astype(np.float32)
    means = jax.device_get(jax.jit(task.scores)(joint, {"label": examples.labels}))
    together = {name: Mean.of([mean]) for name, mean in means.items()} | task.gathered(joint, examples)
    if place is not None:
        tables.write(place, joint, examples, classes)
    return {"ensemble": together, **metrics}


def combined(outputs: np.ndarray, task: str, combine: str) -> np.ndarray:
    """Outputs [examples, width], as the task's metrics read them, of those of the runs, [runs, examples, width]."""
    if task == "regression":
        if combine == "votes":
            raise InputError("--combine=votes: values of a regression have no votes; use probabilities, their mean")
        return outputs.mean(0)
    chances = expit(outputs) if task == "multilabel" else softmax(outputs, -1)
    share = chances.mean(0)
    if combine == "votes":
        won = chances > 0.5 if task == "multilabel" else chances == chances.max(-1, keepdims=True)
        # The mean probability is one vote more: it decides between equals, and no class has a share of zero.
        share = (won.sum(0) + share) / (len(outputs) + 1)
    share = np.clip(share, 1e-12, 1 - 1e-12)
    return logit(share) if task == "multilabel" else np.log(share)
