"""`jaxfer.run`: checks everything, claims the folder, and leaves training to a session; several runs at once too."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxfer import files
from jaxfer.errors import Interrupted
from jaxfer.parallel import cluster
from jaxfer.runs.checkpoint import Checkpoints
from jaxfer.runs.folder import check_owner, check_present, locked
from jaxfer.runs.metrics import read_metrics
from jaxfer.training import blocks, cut, lineage, results
from jaxfer.training.blocks import Error, Grid
from jaxfer.training.preemption import Notice, preemption_notice
from jaxfer.training.preflight import preflight
from jaxfer.training.progress import Reporter
from jaxfer.training.session import Session, Turn, Watch
from jaxfer.training.stepping import at_once, step_by_step


def run(
    config: ConfigDict, workdir: str | epath.Path, *, quiet: bool = False, watch: Watch | None = None
) -> dict[str, Any]:
    """Trains, or resumes training, the experiment of `config` in `workdir`.

    A folder with an unfinished run of this config is resumed, bit for bit; a finished one is returned, or extended
    where the config's last stage has become longer.

    Args:
      config: as `jaxfer.load` returns it.
      workdir: the run's folder, made if absent.
      quiet: print nothing but warnings.
      watch: is told of each evaluation on val, {`step`, metric: value}, and ends the stage with it where it returns
        true, as `config.patience` would: the result says so in `stopped`. Every process has to answer alike.

    Returns:
      The contents of result.json.

    Raises:
      InputError: something in the config, the data or the folder is wrong; nothing has been trained or changed.
      NonFiniteLoss: the loss became NaN or infinite.
      Preempted: SIGTERM came; the run is saved.
      Interrupted: Ctrl-C came; the run is saved.
    """
    (outcome,) = run_together([(config, workdir)], Grid.of([0]), quiet=quiet, watch=watch)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


Outcome = dict[str, Any] | Error


def run_together(
    runs: Sequence[tuple[ConfigDict, str | epath.Path] | None],
    grid: Grid,
    *,
    quiet: bool = False,
    reporters: Sequence[Reporter] = (),
    told: Callable[[int, Outcome], None] = lambda member, outcome: None,
    watch: Watch | None = None,
) -> list[Outcome | None]:
    """Several runs at once. Their stages are trained in one program where they can be, else one after the other.

    Args:
      runs: (config, folder) of each, as of `run`; None for a member of the grid that is not to run.
      grid: where each stands in the program.
      quiet: as of `run`.
      reporters: of the progress of each; default: their own.
      told: of each member's outcome, as it comes.
      watch: as of `run`, for each of them.

    Returns:
      Of each its result.json, or the error that ended it: what ends one leaves the others alone.
    """
    outcomes: list[Outcome | None] = [None] * len(runs)
    turns: dict[int, Turn] = {}
    with preemption_notice() as notice, contextlib.ExitStack() as opened:

        def end(member: int, outcome: Outcome) -> None:
            outcomes[member] = outcome
            told(member, outcome)

        def go_on(member: int, resume: Callable[[], Turn]) -> None:
            try:
                turns[member] = resume()
            except StopIteration as done:
                end(member, done.value)
            except (Exception, SystemExit, Interrupted) as error:
                end(member, error)

        reporters = reporters or [Reporter(quiet=quiet or not cluster.leader()) for _ in runs]
        try:
            attempts = {}
            for member, given in enumerate(runs):
                if given is not None and not (attempts and notice):
                    attempts[member] = attempt = _attempt(*given, notice, reporters[member], watch)
                    opened.enter_context(contextlib.closing(attempt))
                    go_on(member, attempt.__next__)
                    _share(member, turns, grid)
            while turns:
                ended = _train(turns, grid)
                for member in list(turns):
                    del turns[member]
                    attempt, error = attempts[member], ended.get(member)
                    go_on(member, attempt.__next__ if error is None else lambda a=attempt, e=error: a.throw(e))
            for member, given in enumerate(runs):
                if given is not None and member not in attempts:
                    end(member, notice.stopped("it was not begun"))
        finally:
            notice.unsaved = False
    return outcomes


def _share(member: int, turns: Mapping[int, Turn], grid: Grid) -> None:
    """Lets a member that is about to be trained in one program with others use their frozen leaves."""
    if member in turns and (kind := blocks.key(turns[member], grid)) is not None:
        like = next(turn for turn in turns.values() if blocks.key(turn, grid) == kind)
        if like is not turns[member]:
            blocks.share(turns[member], like)


def _train(turns: Mapping[int, Turn], grid: Grid) -> dict[int, Error]:
    """Trains every stage to its end; {member: why it ended early}."""
    ended: dict[int, Error] = {}
    kinds = {member: blocks.key(turn, grid) for member, turn in turns.items()}
    for kind in dict.fromkeys(kinds.values()):
        alike = {member: turns[member] for member in turns if kinds[member] == kind}
        if kind is not None:
            try:
                ended |= blocks.in_blocks(alike, grid)
                continue
            except blocks.TooLarge as error:
                next(iter(alike.values())).session.reporter.warn(str(error))
            except Exception as error:  # of none in particular: out of memory, say
                ended |= dict.fromkeys(alike, error)
                continue
        for member, turn in alike.items():
            try:
                with turn.session.clock:
                    step_by_step(turn) if turn.stage.spec.method.at_once is None else at_once(turn)
            except (Exception, SystemExit, Interrupted) as error:
                ended[member] = error
    return ended


def _attempt(
    config: ConfigDict, workdir: str | epath.Path, notice: Notice, reporter: Reporter, watch: Watch | None
) -> Iterator[Turn]:
    """One attempt at a run: yields its stages to be trained, returns the contents of result.json."""
    folder = cluster.together(lambda: files.opened(workdir))
    ready = cluster.together(lambda: preflight(config, folder))
    experiment, notice.grace = ready.experiment, ready.experiment.run.grace
    cluster.agree({"config": experiment.to_dict(), "data sha256": ready.data.fingerprint, "workdir": str(folder)})
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
        reporter.say(cluster.together(lambda: "" if reporter.quiet else ready.overview()))
        features = () if reporter.quiet else cut.notes(ready.stages, ready.where, experiment)
        for note in (*ready.notes(), *features):
            reporter.say(f"note: {note}")
        checkpoints = Checkpoints(folder / "checkpoints")
        parts = (experiment, folder, ready.data, ready.stages, ready.where, checkpoints, notice, reporter)
        session = Session(*parts, watch)
        try:
            result = yield from session.training(first)
        except BaseException as error:
            with contextlib.suppress(Exception):  # the first error is the one to report
                session.close()
            if isinstance(error, Exception):
                check_present(folder)
            raise
        session.close()
        if not reporter.quiet and (note := results.stood_still(ready.stages, read_metrics(folder / "metrics.jsonl"))):
            reporter.say(f"note: {note}")
        return result
