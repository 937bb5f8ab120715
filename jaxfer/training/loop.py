"""`jaxfer.run`: checks everything, claims the folder, and leaves training to a session."""

from __future__ import annotations

import contextlib
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxfer import files
from jaxfer.parallel import cluster
from jaxfer.runs.checkpoint import Checkpoints
from jaxfer.runs.folder import check_owner, check_present, locked
from jaxfer.training import lineage
from jaxfer.training.preemption import Notice, preemption_notice
from jaxfer.training.preflight import Preflight, preflight
from jaxfer.training.progress import Reporter
from jaxfer.training.session import Session


def run(config: ConfigDict, workdir: str | epath.Path, *, quiet: bool = False) -> dict[str, Any]:
    """Trains, or resumes training, the experiment of `config` in `workdir`.

    A folder with an unfinished run of this config is resumed, bit for bit; a finished one is returned, or extended
    where the config's last stage has become longer.

    Args:
      config: as `jaxfer.load` returns it.
      workdir: the run's folder, made if absent.
      quiet: print nothing but warnings.

    Returns:
      The contents of result.json.

    Raises:
      InputError: something in the config, the data or the folder is wrong; nothing has been trained or changed.
      NonFiniteLoss: the loss became NaN or infinite.
      Preempted: SIGTERM came; the run is saved.
      Interrupted: Ctrl-C came; the run is saved.
    """
    with preemption_notice() as notice:
        folder = cluster.together(lambda: files.opened(workdir))
        ready = cluster.together(lambda: preflight(config, folder))
        notice.grace = ready.experiment.run.grace
        cluster.agree(
            {"config": ready.experiment.to_dict(), "data sha256": ready.data.fingerprint, "workdir": str(folder)}
        )
        try:
            return _run(ready, folder, notice, quiet=quiet or not cluster.leader())
        finally:
            notice.unsaved = False


def _run(ready: Preflight, folder: epath.Path, notice: Notice, *, quiet: bool) -> dict[str, Any]:
    experiment, reporter = ready.experiment, Reporter(quiet=quiet)
    finished = cluster.together(lambda: lineage.finished(ready, folder))
    if finished is not None:
        return finished
    # In a list, so that the session can let go of them: a second copy of the weights would stay for the whole run.
    begun, *_ = cluster.gathered((folder / "checkpoints").exists())
    first = [] if begun else [lineage.begin(ready, folder)]
    with contextlib.ExitStack() as held:

        def claim() -> None:
            held.enter_context(locked(folder))
            check_owner(folder, experiment)  # another run may have come first

        cluster.together(claim)
        cluster.visible(folder)
        # The first thing that is said, but after what can be refused: a refusal stands alone.
        reporter.say(cluster.together(lambda: "" if quiet else ready.overview()))
        for note in ready.notes():
            reporter.say(f"note: {note}")
        checkpoints = Checkpoints(folder / "checkpoints")
        session = Session(experiment, folder, ready.data, ready.stages, ready.where, checkpoints, notice, reporter)
        try:
            result = session.train(first)
        except BaseException as error:
            with contextlib.suppress(Exception):  # the first error is the one to report
                session.close()
            if isinstance(error, Exception):
                check_present(folder)
            raise
        session.close()
        return result
