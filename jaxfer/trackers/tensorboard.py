"""TensorBoard: event files in the run's `tb/`, or in --into; the config and the result for its HParams page.

The files of an earlier telling are replaced: TensorBoard would draw both.
"""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from jaxfer import files
from jaxfer.errors import InputError
from jaxfer.trackers import Begin, End, Metrics

PATTERN = "events.out.tfevents.*"


class Writer:
    """Writes event files."""

    def __init__(self, into: str):
        self._into = into

    def begin(self, event: Begin) -> None:
        if files.remote(self._into or event.folder):
            raise InputError("--to=tensorboard writes to a disk; give a folder with --into")
        folder = Path(self._into or Path(event.folder) / "tb")
        for former in folder.glob(PATTERN):
            former.unlink()
        self._config = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in event.config.items()}
        self._writer = SummaryWriter(str(folder))
        self._writer.add_text(
            "config", "\n".join(f"    {k}: {v}" for k, v in self._config.items()), 0, walltime=event.started
        )

    def metrics(self, event: Metrics) -> None:
        for name, value in event.values.items():
            self._writer.add_scalar(name, value, event.step, walltime=event.time)

    def end(self, event: End) -> None:
        if event.finished:
            for summary in hparams(self._config, dict(event.summary)):
                self._writer.file_writer.add_summary(summary, walltime=event.time)
            for name, value in event.summary.items():
                self._writer.add_scalar(name, value, event.step, walltime=event.time)
        self._writer.close()


def tracker(project: str, into: str) -> Writer:
    """`into`: folder of the event files; default: `tb` in the run's. TensorBoard knows no projects."""
    return Writer(into)
