"""Weights & Biases. WANDB_MODE=offline and the package's other variables hold as they do elsewhere."""

from __future__ import annotations

import wandb

from jaxfer.trackers import Begin, End, Metrics


class Run:
    """A run of a project, continued if it is there already."""

    def __init__(self, project: str, into: str):
        self._project, self._into = project, into

    def begin(self, event: Begin) -> None:
        self._run = wandb.init(
            project=self._project,
            dir=self._into or None,
            id=event.id,
            name=event.name,
            config=dict(event.config),
            resume="allow",
            # What else wandb would record is of this process, which is not the one that trains.
            settings=wandb.Settings(x_disable_stats=True, console="off", disable_git=True, save_code=False),
        )
        self._first = self._run.step  # wandb takes no step before this one

    def metrics(self, event: Metrics) -> None:
        if event.step >= self._first:
            self._run.log(dict(event.values), step=event.step)

    def end(self, event: End) -> None:
        self._run.summary.update(dict(event.summary))
        self._run.finish(exit_code=0 if event.finished else 1)


def tracker(project: str, into: str) -> Run:
    """`into`: folder of wandb's own files; default: `wandb` in the current one."""
    return Run(project, into)
