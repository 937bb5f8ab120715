"""What is due after a step of a run."""

from __future__ import annotations

import dataclasses

from jaxfer.config.experiment import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Due:
    """A line of metrics, an evaluation, a checkpoint: true where any of them is due.

    An evaluation is of a checkpoint, so that a later start can make it.
    """

    logs: bool
    evaluates: bool
    saves: bool

    @classmethod
    def after(cls, step: int, run: RunConfig, *, ends: bool) -> Due:
        """After step `step` of a run, which `ends` a stage or does not."""
        evaluates = ends or (bool(run.eval_every) and step % run.eval_every == 0)
        saves = evaluates or (bool(run.save_every) and step % run.save_every == 0)
        # An evaluation may be a stage's last step, whose means are then written: they are written before it.
        logs = ends or step % run.log_every == 0 or (evaluates and bool(run.patience))
        return cls(logs=logs, evaluates=evaluates, saves=saves)

    def __bool__(self) -> bool:
        return self.logs or self.saves
