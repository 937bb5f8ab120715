"""Trains a stage step by step, its batches made meanwhile by threads or worker processes; or at once, without steps."""

from __future__ import annotations

import time
from collections.abc import Mapping

import jax

from jaxfer import files
from jaxfer.data.loader import Feed, train_batches
from jaxfer.state import State
from jaxfer.training import examples, fitting, merging, passes, streams, teachers
from jaxfer.training.profile import Lead, Waited
from jaxfer.training.programs import Program, train_program
from jaxfer.training.session import Turn


def step_by_step(turn: Turn) -> None:
    """Trains a stage to its end; `turn.state` is its last.

    Raises:
      NonFiniteLoss: as `Session.took` and `Session.reached` do.
      Preempted: the process was asked to stop; the State is saved.
      Interrupted: likewise, by Ctrl-C.
    """
    session, stage, ran = turn.session, turn.stage, turn.ran
    run, where, task = session.experiment.run, session.where, ran.spec.task
    begin = turn.step
    batches = train_batches(
        Feed(
            split=turn.split,
            encodings=ran.spec.port.encodings,
            targets=task.targets,
            others=teachers.encodings(stage),
            sampler=examples.sampler(session.experiment, stage.config, turn.split),
        ),
        seed=run.seed,
        batch_size=stage.config.batch_size,
        start=begin,
        stop=stage.stop,
        augment=session.experiment.data.augment if ran is stage else (),  # views are augmented already
        workers=session.experiment.data.workers if ran is stage else 0,  # of stored features nothing is decoded
        rows=where.rows(stage.config.batch_size),
        beside=streams.beside(session.experiment, stage, session.data, where),
    )
    waited, programs = Waited(batches), _Programs(turn)
    metrics: list[dict[str, jax.Array]] = []  # of the steps since the last fetch
    sync, lead = time.perf_counter(), Lead()
    for step, batch in enumerate(where.feed(waited, train=True), start=begin + 1):
        program, compiling = programs.of(turn.state, batch)
        sync += compiling
        session.trace.begin(step, turn.state)
        session.notice.unsaved = True
        turn.state = passes.renewed(stage, turn.state, session.data, where, run.eval_batch_size, step - 1 - stage.start)
        turn.state, logged = program.call(turn.state, batch)
        session.trace.end(step, logged)
        metrics.append(logged)
        lead.limit(metrics)
        session.reporter.step(step, stage.name, session.record["cost"]["compile_seconds"])
        asked = session.notice.at(step)  # once: it may come between two questions, and a save needs its fetch
        due = session.due(stage, step)
        if due or asked:
            lines = [{name: float(value) for name, value in line.items()} for line in jax.device_get(metrics)]
            session.took(stage, step, lines, seconds=time.perf_counter() - sync, waited=waited.take())
            metrics, sync = [], time.perf_counter()
        if due or asked:
            if session.reached(stage, turn.state, step, asked=asked):
                batches.close()
                return
            if due.saves or asked:
                sync = time.perf_counter()


def at_once(turn: Turn) -> None:
    """Fits the output layer of a stage, or merges networks, as its method says: its one step; raises likewise."""
    session, stage, begun = turn.session, turn.stage, time.perf_counter()
    train, val = turn.split, session.data.splits["val"]
    how = {"stop": session.notice, "reporter": session.reporter}
    if stage.spec.method.fit is not None:
        make, how = fitting.fitted, {**how, "seed": session.experiment.run.seed}
        train, val = (session.reading.features(stage, turn.state, split) for split in (train, val))
    else:
        ledger = files.read_json(session.folder / "ledger.json")["leaves"]
        own = {"experiment": session.experiment, "where": session.where, "ledger": ledger}
        make, how = merging.merged, {**how, **own}
    session.trace.begin(stage.stop, turn.state)
    turn.state, metrics, path = make(stage, turn.state, train, val, **how)
    session.trace.end(stage.stop, metrics)
    session.notice.unsaved = True
    session.record.setdefault("fits", {})[stage.name] = path
    files.write_text(session.folder / f"fit_{stage.name}.csv", fitting.table(path["path"]))
    session.reporter.step(stage.stop, stage.name)
    seconds = time.perf_counter() - begun
    session.took(stage, stage.stop, [metrics], seconds=seconds, examples=len(train))
    session.reached(stage, turn.state, stage.stop, asked=session.notice.at(stage.stop))


class _Programs:
    """The step for a batch of each shape: images have one, texts one for each bucket that occurs."""

    def __init__(self, turn: Turn):
        self._turn = turn
        self._made: dict[tuple[tuple[int, ...], ...], Program] = {}

    def of(self, state: State, batch: Mapping[str, jax.Array]) -> tuple[Program, float]:
        """(the program, the seconds that getting it took)."""
        shape, begun = tuple(x.shape for x in jax.tree.leaves(batch)), time.perf_counter()
        if shape in self._made:
            return self._made[shape], 0.0
        session, spec = self._turn.session, self._turn.ran.spec
        self._made[shape], fresh = train_program(spec, state, session.where.whole(batch), session.where)
        session.compiled(self._made[shape], fresh)
        return self._made[shape], time.perf_counter() - begun
