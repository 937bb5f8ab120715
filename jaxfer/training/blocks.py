"""Trains stages on stored features many steps at a call, those of several runs together.

The features lie on the device, and a step reads the rows of its batch there. Runs that differ in scalars and seeds
alone are members of one program: those of one seed see the same batches, so that their products are one wide one. A
member's numbers depend on its own and on how many there are, not on what the others are: where one is finished, has
diverged or continues from another step, its place is filled with a copy.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer import rules
from jaxfer.config.experiment import Experiment
from jaxfer.data.loader import Batch, Feed, single_batches
from jaxfer.errors import Interrupted
from jaxfer.models.port import FEATURES
from jaxfer.parallel.placement import Placement
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.step import split
from jaxfer.training.cut import cut
from jaxfer.training.programs import block_program
from jaxfer.training.session import Turn

LONGEST = 256  # steps of a call: SIGTERM waits for its end
RESIDENT = 2**30  # bytes of features that may lie on a device

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


def possible(stage: Stage, where: Placement, experiment: Experiment) -> bool:
    """Whether a stage may run here: it reads stored features, on a single device."""
    alone = _on_one_device(where, experiment) and stage.spec.method.fit is None
    return alone and cut(stage, where, experiment).at == FEATURES


def _on_one_device(where: Placement, experiment: Experiment) -> bool:
    """A profile is of single steps."""
    return where.mode == "jit" and where.size == 1 and not experiment.run.profile


def key(turn: Turn) -> Hashable | None:
    """Equal for stages that can be trained in one call; None where a stage is trained step by step."""
    session, run = turn.session, turn.session.experiment.run
    if turn.ran.spec.port.start != FEATURES or not _on_one_device(session.where, session.experiment):
        return None
    features = turn.split.columns[FEATURES].values
    if features.nbytes > RESIDENT:
        return None
    events = run.log_every, run.eval_every, run.save_every, turn.stage.start, turn.stage.stop
    return turn.ran.spec, turn.stage.config.batch_size, events, str(features.filename), turn.step


def share(turn: Turn, other: Turn) -> None:
    """Frozen leaves of two stages of equal `key` are the same: one copy is enough."""
    frozen = split(other.state.params, other.ran.spec.trainable)[1]
    own = split(turn.state.params, turn.ran.spec.trainable)[0]
    turn.state = turn.state.replace(params=rules.unflatten({**frozen, **own}), model_state=other.state.model_state)


def in_blocks(turns: Mapping[int, Turn], grid: Grid) -> dict[int, Error]:
    """Trains stages of equal `key` to their end; each `turn.state` is its last.

    Args:
      turns: {member: its stage}.
      grid: of all members, of those without a turn too.

    Returns:
      {member: why it ended early}: `NonFiniteLoss`, `Preempted`, `Interrupted` or any other error.
    """
    begun, first = time.perf_counter(), next(iter(turns.values()))
    session, stage, ran = first.session, first.stage, first.ran
    count = min(LONGEST, stage.config.steps)  # however many are left: the same program
    values = np.asarray(first.split.columns[FEATURES].values, np.float32)
    columns = jax.device_put({FEATURES: values}, session.where.replicated)
    batches = _Batches(turns, grid)
    own, hparams, keys, shared = _stacked(turns, grid)
    arguments = own, hparams, keys, shared, np.int32(0), columns, batches(first.step, 1, count), np.int32(0)
    program, fresh = block_program(ran.spec, arguments, ran.example(), first.state, session.where)
    for turn in turns.values():
        turn.session.in_block(program)
    session.compiled(program, fresh)
    session.clock.add(time.perf_counter() - begun)
    ended: dict[int, Error] = {}
    step = first.step
    while step < stage.stop and len(ended) < len(turns):
        begun, ahead = time.perf_counter(), 1
        while ahead < count and not session.due(stage, step + ahead):
            ahead += 1
        number = np.int32(step - stage.start)
        read = batches(step, ahead, count)
        own, logged = program.call(own, hparams, keys, shared, number, columns, read, np.int32(ahead))
        logged, step = jax.device_get(logged), step + ahead
        seconds = (time.perf_counter() - begun) / len(turns)
        asked, due = session.notice.at(step), session.due(stage, step)
        for member, turn in turns.items():
            if member in ended:
                continue
            place, owner = grid.places[member], turn.session
            owner.clock.add(seconds)
            lines = [{name: float(values[i][place]) for name, values in logged.items()} for i in range(ahead)]
            try:
                with owner.clock:
                    owner.notice.unsaved = True
                    owner.reporter.step(step, stage.name)
                    owner.took(turn.stage, step, lines, seconds=seconds)
                    if due.saves or asked:
                        turn.state = _taken(turn, own, place, step)
                    owner.reached(turn.stage, turn.state, step, asked=asked)
            except (Exception, SystemExit, Interrupted) as error:
                ended[member] = error
    return ended


class _Batches:
    """The batches of several steps, for each row of a grid."""

    def __init__(self, turns: Mapping[int, Turn], grid: Grid):
        # A row without members reads another's batches: nobody reads what comes of them.
        rows = {grid.places[member][0]: turn for member, turn in turns.items()}
        made = {row: _reader(turn) for row, turn in rows.items()}
        self._rows: list[Callable[[int], Batch]] = [
            made.get(row, next(iter(made.values()))) for row in range(grid.shape[0])
        ]

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


def _reader(turn: Turn) -> Callable[[int], Batch]:
    """Step -> its batch, with rows of the features' column in place of features."""
    spec, run = turn.ran.spec, turn.session.experiment.run
    feed = Feed(
        split=turn.split,
        encodings=tuple(dataclasses.replace(encoding, rows=True) for encoding in spec.port.encodings),
        targets=spec.task.targets,
    )
    return single_batches(feed, seed=run.seed, batch_size=turn.stage.config.batch_size)


def _stacked(turns: Mapping[int, Turn], grid: Grid) -> tuple[Any, Any, Any, Any]:
    """(what each member trains [rows, columns, ...], its hparams likewise, keys [rows], what all share)."""
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
    own = stack([(split(state.params, trainable)[0], state.opt_state, state.extra) for state in states], rows, columns)
    hparams = stack([state.hparams for state in states], rows, columns)
    keys = stack([state.key for state in states[::columns]], rows)
    return own, hparams, keys, (split(some.state.params, trainable)[1], some.state.model_state)


def _taken(turn: Turn, own: Any, place: tuple[int, int], step: int) -> State:
    """A member's State out of all of them."""
    trained, opt_state, extra = _member(own, *place)
    frozen = split(turn.state.params, turn.ran.spec.trainable)[1]
    done = jnp.int32(step - turn.stage.start)
    params = rules.unflatten({**frozen, **trained})
    state = turn.state.replace(step=done, params=params, opt_state=opt_state, extra=extra)
    return turn.session.where.place(turn.ran.spec, state)


@jax.jit
def _member(own: Any, row: jax.Array, column: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[row, column], own)
