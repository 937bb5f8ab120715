"""Trackio: a project on this machine, or with --into on a server. Its own variables (TRACKIO_DIR, ...) hold."""

from __future__ import annotations

import trackio

from jaxfer.trackers import Begin, End, Metrics


class Run:
    """A run of a project, continued if it is there already."""

    def __init__(self, project: str, into: str):
        self._project, self._into = project, into

    def begin(self, event: Begin) -> None:
        self._run = trackio.init(
            project=self._project,
            name=f"{event.name}-{event.id[:6]}",  # Trackio finds runs by name, so that it has to be this run's alone
            config=dict(event.config),
            resume="allow",
            server_url=self._into or None,
            auto_log_gpu=False,  # of this process, which is not the one that trains
            auto_log_cpu=False,
        )
        self._first = self._run._next_step  # after the last that an earlier telling got to; no public name says it

    def metrics(self, event: Metrics) -> None:
        if event.step >= self._first:
            self._run.log(dict(event.values), step=event.step)

    def end(self, event: End) -> None:
        if event.finished:  # also where all its steps were told before: Trackio can't be asked for the result's
            self._run.log(dict(event.summary), step=event.step)
        self._run.finish()


def tracker(project: str, into: str) -> Run:
    """`into`: URL of a Trackio server; default: the files in TRACKIO_DIR."""
    return Run(project, into)
