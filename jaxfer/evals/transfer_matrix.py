"""What a network kept and gained over a sequence of tasks, from its scores on each of them after each of them.

`scores[i, j]` is the score on task j after training on task i, higher being better; NaN where it was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxfer.errors import InputError

Matrix = Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True)
class Transfer:
    """The four numbers of a sequence.

    Attributes:
      average: `average`.
      forgetting: `forgetting`; None for a single task.
      backward: `backward`, likewise.
      forward: `forward`; None too where a task was not measured before it was trained on.
    """

    average: float
    forgetting: float | None
    backward: float | None
    forward: float | None


def transfer(scores: Matrix, untrained: Sequence[float] | None = None) -> Transfer:
    """All four; `untrained` as in `forward`, without which there is no forward transfer."""
    array = _checked(scores)
    if len(array) == 1:
        return Transfer(average(array), None, None, None)
    ahead = untrained is not None and np.isfinite(np.diagonal(array, 1)).all()
    return Transfer(average(array), forgetting(array), backward(array), forward(array, untrained) if ahead else None)


def average(scores: Matrix) -> float:
    """The mean score over all tasks after the last one: ACC of Lopez-Paz and Ranzato, 2017, arXiv:1706.08840."""
    return float(_last(_checked(scores)).mean())


def backward(scores: Matrix) -> float:
    """Backward transfer: how much better the earlier tasks are after the last one than right after each of them.

    Lopez-Paz and Ranzato, 2017, arXiv:1706.08840: BWT. Below 0 where they are forgotten.
    """
    array = _checked(scores, least=2)
    return float((_last(array) - _own(array))[:-1].mean())


def forward(scores: Matrix, untrained: Sequence[float]) -> float:
    """Forward transfer: how much better a task is before training on it, after those before it, than at the start.

    Lopez-Paz and Ranzato, 2017, arXiv:1706.08840: FWT. It needs a head that all tasks share.

    Args:
      scores: of the sequence.
      untrained: [tasks], scores of the network at its start; that of the first task is not read.
    """
    array, start = _checked(scores, least=2), np.asarray(untrained, np.float64)
    if start.shape != (len(array),):
        raise InputError(
            f"expected a score of the untrained network for each of {len(array)} tasks, found {start.size}"
        )
    return float((_known(np.diagonal(array, 1), "before it is trained on", 1) - start[1:]).mean())


def forgetting(scores: Matrix) -> float:
    """How much better each earlier task once was than it is after the last one, on average.

    Chaudhry et al., 2018, "Riemannian Walk for Incremental Learning", arXiv:1801.10112: the best is over all rows
    but the last. So it is at least minus the backward transfer.
    """
    array = _checked(scores, least=2)
    _own(array)
    best = np.nanmax(array[:-1, :-1], axis=0)
    return float((best - _last(array)[:-1]).mean())


def _checked(scores: Matrix, least: int = 1) -> np.ndarray:
    array = np.asarray(scores, np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or len(array) < least:
        raise InputError(
            f"expected a square of scores of {least} or more tasks, found {list(array.shape)}; give a row for each "
            "task that was trained on and a column for each that was scored"
        )
    if np.isinf(array).any():
        raise InputError("expected finite scores, or NaN where there is none, found an infinite one; rerun that task")
    return array


def _last(array: np.ndarray) -> np.ndarray:
    return _known(array[-1], "after the last one")


def _own(array: np.ndarray) -> np.ndarray:
    return _known(np.diagonal(array), "right after it")


def _known(scores: np.ndarray, when: str, first: int = 0) -> np.ndarray:
    if np.isnan(scores).any():
        raise InputError(f"task {int(np.isnan(scores).argmax()) + first} has no score {when}; evaluate it there")
    return scores
