"""Trains stages many steps at a call: one on stored features, or those of several runs together.

Features lie on the device, and a step reads the rows of its batch there; a small network gets its batches with the
call. Runs that differ in scalars and seeds alone are members of one program: those of one seed see the same batches, so
that their products are one wide one. A member's numbers depend on its own and on how many there are, not on what the
others are: where one is finished, has diverged or continues from another step, its place is filled with a copy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Generator, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer import rules
from jaxfer.data.loader import Batch, Feed, single_batches, train_batches
from jaxfer.errors import Interrupted
from jaxfer.models.port import FEATURES
from jaxfer.runs.finished import fingerprint
from jaxfer.state import State
from jaxfer.step import split
from jaxfer.training import examples, members
from jaxfer.training.programs import block_program
from jaxfer.training.session import Turn

LONGEST = 256  # steps of a call: SIGTERM waits for its end
RESIDENT = 2**30  # bytes of features that may lie on a device
GIVEN = 2**26  # bytes of batches that a call may get

Error = Exception | SystemExit | Interrupted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Where members stand in their program: a row for each seed, with its members.

    Attributes:
      shape: (rows, members of a row).
      places: (row, column) of each member.
    """

    shape: tuple[int, int]
    places: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, seeds: Sequence[int]) -> Grid:
        """The grid of members with these seeds; a row for each member where seeds have different numbers of them."""
        rows = list(dict.fromkeys(seeds))
        if len({seeds.count(seed) for seed in rows}) > 1:
            return cls(shape=(len(seeds), 1), places=tuple((i, 0) for i in range(len(seeds))))
        places = ((rows.index(seed), seeds[:i].count(seed)) for i, seed in enumerate(seeds))
        return cls(shape=(len(rows), len(seeds) // len(rows)), places=tuple(places))


class TooLarge(Exception):
    """The members' program has no room on the device; its message says so. Nothing has been trained."""


def key(turn: Turn, grid: Grid) -> Hashable | None:
    """Equal for stages that can be trained in one call; None where a stage is trained step by step.

    Args:
      turn: the stage.
      grid: of all members. A whole network is trained so as one of several alone: whether the others are finished
        changes nothing.
    """
    session, run, where = turn.session, turn.session.experiment.run, turn.session.where
    method = turn.stage.spec.method
    if not members.alone(where, session.experiment) or method.at_once is not None or method.passes is not None:
        return None
    if turn.ran.spec.port.start == FEATURES:
        features = turn.split.columns[FEATURES].values
        if features.nbytes > RESIDENT:
            return None
        read = str(features.filename)
    elif turn.ran is turn.stage and len(grid.places) > 1 and members.small(turn.stage, where):
        read = fingerprint(split(turn.state.params, turn.ran.spec.trainable)[1])
    else:
        return None
    events = run.log_every, run.eval_every, run.save_every, bool(run.patience), turn.stage.start, turn.stage.stop
    return turn.ran.spec, turn.stage.config.batch_size, events, read, turn.step


def share(turn: Turn, other: Turn) -> None:
    """Frozen leaves of two stages of equal `key` are the same: one copy is enough."""
    frozen = split(other.state.params, other.ran.spec.trainable)[1]
    own = split(turn.state.params, turn.ran.spec.trainable)[0]
    turn.state = turn.state.replace(params=rules.unflatten({**frozen, **own}))


def in_blocks(turns: Mapping[int, Turn], grid: Grid) -> dict[int, Error]:
    """Trains stages of equal `key` to their end; each `turn.state` is its last.

    Args:
      turns: {member: its stage}.
      grid: of all members, of those without a turn too.

    Returns:
      {member: why it ended early}: `NonFiniteLoss`, `Preempted`, `Interrupted` or any other error.

    Raises:
      TooLarge: several members have no room in one program.
    """
    with contextlib.closing(_Batches(turns, grid)) as batches:
        return _trained(turns, grid, batches)


def _trained(turns: Mapping[int, Turn], grid: Grid, batches: _Batches) -> dict[int, Error]:
    begun, first = time.perf_counter(), next(iter(turns.values()))
    session, stage, ran = first.session, first.stage, first.ran
    count = batches.at_most(min(LONGEST, stage.config.steps))  # however many are left: the same program
    columns = {}
    if ran.spec.port.start == FEATURES:
        values = np.asarray(first.split.columns[FEATURES].values, np.float32)
        columns = jax.device_put({FEATURES: values}, session.where.replicated)
    own, hparams, keys, frozen = _stacked(turns, grid)
    arguments = own, hparams, keys, frozen, np.int32(0), columns, batches(first.step, 1, count), np.int32(0)
    program, fresh = block_program(ran.spec, arguments, ran.example(), first.state, session.where)
    if len(grid.places) > 1 and not members.fits(program.peak_bytes, session.where):
        raise TooLarge(
            f"{len(grid.places)} cells in one program need {program.peak_bytes / 2**30:.1f} GiB, more than this device "
            "has: they are trained one after the other"
        )
    for turn in turns.values():
        turn.session.in_block(program)
    session.compiled(program, fresh)
    session.clock.add(time.perf_counter() - begun)
    ended: dict[int, Error] = {}
    over: set[int] = set()  # that stopped early
    step = first.step
    while step < stage.stop and len(ended) + len(over) < len(turns):
        begun, ahead = time.perf_counter(), 1
        while ahead < count and not session.due(stage, step + ahead):
            ahead += 1
        number = np.int32(step - stage.start)
        read = batches(step, ahead, count)
        own, logged = program.call(own, hparams, keys, frozen, number, columns, read, np.int32(ahead))
        logged, step = jax.device_get(logged), step + ahead
        seconds = (time.perf_counter() - begun) / len(turns)
        asked, due = session.notice.at(step), session.due(stage, step)
        for member, turn in turns.items():
            if member in ended or member in over:
                continue
            place, owner = grid.places[member], turn.session
            owner.clock.add(seconds)
            lines = [{name: float(values[i][place]) for name, values in logged.items()} for i in range(ahead)]
            try:
                with owner.clock:
                    owner.notice.unsaved = True
                    owner.reporter.step(step, stage.name, owner.record["cost"]["compile_seconds"])
                    owner.took(turn.stage, step, lines, seconds=seconds)
                    if due.saves or asked:
                        turn.state = _taken(turn, own, place, step)
                    if owner.reached(turn.stage, turn.state, step, asked=asked):
                        over.add(member)
            except (Exception, SystemExit, Interrupted) as error:
                ended[member] = error
    return ended


class _Batches:
    """The batches of several steps, for each row of a grid."""

    def __init__(self, turns: Mapping[int, Turn], grid: Grid):
        # A row without members reads another's batches: nobody reads what comes of them.
        rows = {grid.places[member][0]: turn for member, turn in turns.items()}
        made = {row: _reader(turn) for row, turn in rows.items()}
        self._rows = [made.get(row, next(iter(made.values()))) for row in range(grid.shape[0])]
        self._begin = next(iter(turns.values())).step

    def at_most(self, count: int) -> int:
        """So many steps, or fewer where their batches would be too large for a call."""
        size = sum(leaf.nbytes for read in self._rows for leaf in jax.tree.leaves(read(self._begin)))
        return max(1, min(count, GIVEN // size))

    def __call__(self, begin: int, count: int, size: int) -> Batch:
        """The batches of `count` steps after step `begin`, filled up to `size`: fields [size, rows, b, ...]."""
        made: dict[int, list[Batch]] = {}  # of rows that read alike: made once
        for read in self._rows:
            if id(read) not in made:
                batches = [read(step) for step in range(begin, begin + count)]
                made[id(read)] = batches + batches[:1] * (size - count)
        return jax.tree.map(
            lambda *leaves: np.stack(leaves).reshape(len(self._rows), size, *leaves[0].shape).swapaxes(0, 1),
            *(batch for read in self._rows for batch in made[id(read)]),
        )

    def close(self) -> None:
        """Ends the threads that make batches."""
        for read in self._rows:
            if isinstance(read, _Ahead):
                read.close()


class _Ahead:
    """Step -> its batch, made by threads meanwhile: after the step before it, or once more."""

    def __init__(self, batches: Generator[Batch], begin: int):
        self._batches, self._next, self._batch = batches, begin, {}
        self.close = batches.close

    def __call__(self, step: int) -> Batch:
        while self._next <= step:
            self._batch, self._next = next(self._batches), self._next + 1
        return self._batch


def _reader(turn: Turn) -> Callable[[int], Batch]:
    """Step -> its batch; of stored features it has rows of their column."""
    spec, experiment = turn.ran.spec, turn.session.experiment
    order = {"seed": experiment.run.seed, "batch_size": turn.stage.config.batch_size}
    sampler = examples.sampler(experiment, turn.stage.config, turn.split)
    feed = Feed(split=turn.split, encodings=spec.port.encodings, targets=spec.task.targets, sampler=sampler)
    if spec.port.start == FEATURES:
        encodings = tuple(dataclasses.replace(encoding, rows=True) for encoding in feed.encodings)
        return single_batches(dataclasses.replace(feed, encodings=encodings), **order)
    data, steps = experiment.data, {"start": turn.step, "stop": turn.stage.stop}
    return _Ahead(train_batches(feed, **order, **steps, augment=data.augment, workers=data.workers), turn.step)


def _stacked(turns: Mapping[int, Turn], grid: Grid) -> tuple[Any, Any, Any, Any]:
    """(what is each member's own [rows, columns, ...], its hparams likewise, keys [rows], leaves that all share)."""
    standing = {grid.places[member]: turn.state for member, turn in turns.items()}
    some = next(iter(turns.values()))
    rows, columns = grid.shape

    def filled(row: int, column: int) -> State:
        of_row = (state for (at, _), state in standing.items() if at == row)
        return standing.get((row, column)) or next(of_row, some.state)

    states = [filled(row, column) for row in range(rows) for column in range(columns)]

    def stack(trees: Sequence[Any], *shape: int) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves).reshape(*shape, *leaves[0].shape), *trees)

    trainable = some.ran.spec.trainable
    own = stack([_own(state, trainable) for state in states], rows, columns)
    hparams = stack([state.hparams for state in states], rows, columns)
    keys = stack([state.key for state in states[::columns]], rows)
    return own, hparams, keys, split(some.state.params, trainable)[1]


def _own(state: State, trainable: Collection[str]) -> tuple[Any, Any, Any, Any]:
    return split(state.params, trainable)[0], state.model_state, state.opt_state, state.extra


def _taken(turn: Turn, own: Any, place: tuple[int, int], step: int) -> State:
    """A member's State out of all of them."""
    trained, model_state, opt_state, extra = _member(own, *place)
    frozen = split(turn.state.params, turn.ran.spec.trainable)[1]
    done = jnp.int32(step - turn.stage.start)
    params = rules.unflatten({**frozen, **trained})
    state = turn.state.replace(step=done, params=params, model_state=model_state, opt_state=opt_state, extra=extra)
    return turn.session.where.place(turn.ran.spec, state)


@jax.jit
def _member(own: Any, row: jax.Array, column: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[row, column], own)
