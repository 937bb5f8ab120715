"""Stages run on stored features where they can: the activations below their cut (`cut`) are computed once.

They lie in a file under a key of all that they depend on (`feature_store`), for every later epoch, seed, rate, label
count and method.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxfer
from jaxfer import rules
from jaxfer.config.experiment import Experiment
from jaxfer.data.encoding import Draw, stated
from jaxfer.data.loader import Feed, eval_batches, rows_read
from jaxfer.data.lookup import fingerprint as of_content
from jaxfer.data.split import Array, Split
from jaxfer.errors import full
from jaxfer.models.port import FEATURES, Port
from jaxfer.parallel.placement import Placement
from jaxfer.ports import port_shapes
from jaxfer.registry import MODELS
from jaxfer.runs.finished import fingerprint
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.step import evaluated
from jaxfer.training import examples, feature_store
from jaxfer.training.cut import cut, cut_at
from jaxfer.training.feature_store import Store
from jaxfer.training.preemption import Notice
from jaxfer.training.progress import Reporter

# What activations are computed by: the key changes with it.
CODE = (
    "models",
    "data/encodings",
    "data/encoding.py",
    "data/split.py",
    "training/cached.py",
    "training/feature_store.py",
    "training/tapped.py",
)


def described(stage: Stage, where: Placement, experiment: Experiment, examples: int) -> str:
    """For `jaxfer show`: what is stored of so many examples, and where; or why nothing is."""
    found = cut(stage, where, experiment)
    if found.at is None:
        return f"computed in each step: {found.why}"
    store = Store(folder=feature_store.root(), count=examples, shape=found.shape, dtype=experiment.run.cache_dtype)
    size = f"{found.values:,} values of {examples:,} examples, {examples * store.row.itemsize:,} bytes"
    of = "of the output layer" if found.at == FEATURES else f"of unit {found.at!r}"
    return f"{of}, computed once: {size} in {store.folder}"


class Unfinished(Exception):
    """The process was asked to stop while it computed features; those that are done are kept."""


def of_stage(
    stage: Stage,
    state: State,
    where: Placement,
    code: str,
    *,
    at: str = FEATURES,
    dtype: str = "float32",
    views: tuple[int, tuple[str, ...]] = (1, ()),
    batch_size: int,
    stop: object,
    say: Callable[[str], None],
) -> Cached:
    """The features of a stage.

    Args:
      stage: as planned.
      at, dtype, views: as `Cached` has them.
      state: any of its States: below the output layer they are the same.
      where: its devices.
      code: `code_version`.
      batch_size: examples at once while features are computed.
      stop: true once the process is asked to stop.
      say: tells the user a line.
    """
    port = stage.spec.port
    above = (f"{port.head}/",) if at == FEATURES else tuple(f"{unit}/" for unit in port.units[port.units.index(at) :])
    own, params = rules.flatten(port_shapes(port)[0]), rules.flatten(state.params)
    below = {path: params[path] for path in own if not path.startswith(above)}
    statistics = {path: leaf for path, leaf in rules.flatten(state.model_state).items() if _below(path, above)}
    ran, options = cut_at(stage, at, views[0]), {"batch_size": batch_size, "stop": stop, "say": say}
    key = {"weights": fingerprint(below, rules.unflatten(statistics)), "code": code}
    return Cached(plain=stage, stage=ran, where=where, key=key, at=at, dtype=dtype, views=views, **options)


def _below(path: str, above: tuple[str, ...]) -> bool:
    """Whether a running statistic, `batch_stats/UNIT/...`, is of a unit below the cut."""
    return not path.split("/", 1)[1].startswith(above)


@dataclasses.dataclass(kw_only=True, eq=False)
class Cached:
    """The stored features of a stage's examples.

    Attributes:
      plain: the stage as planned.
      stage: as it runs: its steps and evaluations read features.
      where, batch_size, stop, say: as in `of_stage`.
      key: of what features depend on, the weights and the code.
      at: the cut (`cut.Cut.at`).
      dtype: of the file, `float32` or `bfloat16`.
      views: (how many of each training example, augmented by these names); (1, ()): none.
      seconds: spent on computing and checking features so far.
      computed: rows computed so far.
    """

    plain: Stage
    stage: Stage
    where: Placement
    key: dict[str, str]
    at: str
    dtype: str
    views: tuple[int, tuple[str, ...]]
    batch_size: int
    stop: object
    say: Callable[[str], None]
    seconds: float = 0.0
    computed: int = 0

    def split(self, split: Split, state: State, read: np.ndarray | None = None) -> Split:
        """The same examples with a column of their features.

        Args:
          split: the examples.
          state: of the stage.
          read: those of them that a training stage reads, whose views are computed if there are any; None: an
            evaluation, of all.

        Raises:
          Unfinished: the process is asked to stop.
          OSError: the file can't be written, or there is no room for it within the limit.
        """
        begun = time.perf_counter()
        views, augment = (1, ()) if read is None else self.views
        store, about = self._store(split, views, augment)
        rows = split.rows if read is None else split.rows[read]
        rows = np.concatenate([view * (store.count // views) + rows for view in range(views)])
        with store.locked(lambda: self.say("waiting for another run, which computes the same features")):
            store.open(about)
            missing = store.missing(rows)
            if len(missing):
                wanted = self._wanted(split, missing, store.count // views, augment)
                if not feature_store.make_room(wanted.values(self._shape) * store.value_bytes, store.folder):
                    raise OSError(f"those of {len(missing):,} examples would take more than the cache's limit")
                for part, values in self._features(wanted, state):
                    store.write(part, values)
        self.seconds += time.perf_counter() - begun
        self.computed += len(missing)
        return split.with_column(FEATURES, Array(store.values, FEATURES))

    def in_memory(self, split: Split, state: State) -> Split:
        """The same, computed now and kept nowhere else.

        Raises:
          Unfinished: the process is asked to stop.
        """
        begun, rows = time.perf_counter(), np.unique(split.rows)
        (count,) = {len(split.columns[encoding.column]) for encoding in self.plain.spec.port.encodings}
        values = np.empty((count, *self._shape), np.float32)  # untouched rows take no room
        for part, found in self._features(self._wanted(split, rows, count), state):
            values[part] = found
        self.seconds += time.perf_counter() - begun
        self.computed += len(rows)
        return split.with_column(FEATURES, Array(values, FEATURES))

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.stage.spec.port.encoding.shape

    def _store(self, split: Split, views: int = 1, augment: tuple[str, ...] = ()) -> tuple[Store, dict[str, Any]]:
        spec, root = self.plain.spec, feature_store.root()
        port = spec.port
        columns = {encoding.column: split.columns[encoding.column] for encoding in port.encodings}
        about = {
            **self.key,
            "module": repr(port.module.clone(outputs=1)) + ("" if port.neck is None else repr(port.neck)),
            "encodings": [stated(encoding) for encoding in port.encodings],
            "columns": {name: column.sha256 for name, column in columns.items()},
            "unit": self.at,
            "dtypes": [list(pair) for pair in spec.execution.dtypes],
            "stored": self.dtype,
            "views": [views, *augment] if augment else [],
            "device": jax.default_backend(),
            "jax": jax.__version__,
        }
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        (count,) = {len(column) for column in columns.values()}
        store = Store(folder=root / key, count=views * count, shape=self._shape, dtype=self.dtype)
        return store, {**about, "rows": store.count}

    def _wanted(self, split: Split, rows: np.ndarray, count: int, augment: tuple[str, ...] = ()) -> _Wanted:
        """These rows of a store; row `view * count + i` is a view of the column's row i."""
        feed = Feed(split=dataclasses.replace(split, rows=rows % count), encodings=self.plain.spec.port.encodings)
        draw = Draw(seed=0, step=0, positions=rows, augment=augment) if augment else None
        lengths = feed.bind().lengths
        if lengths is None:
            return _Wanted(feed, rows, draw)
        order = np.argsort(lengths, kind="stable")
        feed = dataclasses.replace(feed, split=feed.split.take(order))
        return _Wanted(feed, rows[order], draw, lengths[order] if self.stage.spec.port.encoding.tokens else None)

    def _features(self, wanted: _Wanted, state: State) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, their features), batch by batch; texts from short to long."""
        spec, where = self.plain.spec, self.where
        size = where.rounded(self.batch_size)
        arguments = state.params, state.model_state
        shardings = where.shardings(spec, state.params, arguments)
        port = where.applied(evaluated(spec)).model
        structure, leaves = jax.tree.structure(shardings), tuple(jax.tree.leaves(shardings))
        step = self._step(port, structure, leaves)
        begin = 0
        batches = eval_batches(wanted.feed, batch_size=size, draw=wanted.draw)
        with contextlib.closing(batches):  # its threads end with it
            for batch in where.feed(batches, train=False):
                if self.stop:
                    raise Unfinished
                del batch["mask"]  # padding comes last
                part = wanted.rows[begin : begin + size]
                values = jax.device_get(step(*arguments, batch))[: len(part)]
                if wanted.lengths is not None:
                    values = _padded(values, wanted.lengths[begin : begin + size], self._shape[0])
                yield part, values
                begin += size

    def _step(self, port: Port, structure: Any, shardings: tuple[Any, ...]) -> Any:
        return _step(port, self.at, self.where, structure, shardings)


@dataclasses.dataclass(frozen=True, eq=False)
class _Wanted:
    """Features to be computed.

    Attributes:
      feed: of the examples.
      rows: of the store, where they go.
      draw: augments the examples; None: as they are.
      lengths: tokens of each, where features are of tokens.
    """

    feed: Feed
    rows: np.ndarray
    draw: Draw | None
    lengths: np.ndarray | None = None

    def values(self, shape: tuple[int, ...]) -> int:
        """How many there are, of rows of this shape."""
        return (
            len(self.rows) * math.prod(shape)
            if self.lengths is None
            else int(self.lengths.sum()) * math.prod(shape[1:])
        )


def _padded(values: np.ndarray, lengths: np.ndarray, longest: int) -> np.ndarray:
    """[b, bucket, ...] -> [b, longest, ...], zero beyond each length: what a model makes of padding is read nowhere."""
    there = np.arange(longest) < lengths[:, None]
    padded = np.zeros((len(values), longest, *values.shape[2:]), np.float32)
    padded[:, : values.shape[1]] = values
    return np.where(there.reshape(*there.shape, *(1,) * (values.ndim - 2)), padded, 0)


class Reading:
    """How the stages of a run read their examples: stored features where steps are the same on them."""

    def __init__(self, experiment: Experiment, where: Placement, stop: Notice, reporter: Reporter):
        self._experiment, self._where, self._stop, self._reporter = experiment, where, stop, reporter
        self._cuts: dict[int, str | None] = {}  # of the stages so far
        self._kept: Cached | None = None  # of the stage under way

    def __call__(self, stage: Stage, state: State, split: Split, *, trains: bool = False) -> tuple[Stage, Split]:
        """The stage and these examples as its steps and evaluations read them.

        Args:
          stage: under way.
          state: any of its States.
          split: examples.
          trains: whether its steps read them, and not an evaluation.

        Raises:
          Preempted: the process is asked to stop while it computes features.
          Interrupted: likewise, by Ctrl-C.
        """
        if (at := self._cut(stage)) is None:
            return stage, split
        try:
            kept = self._of(stage, state, at)
            return kept.stage, kept.split(split, state, self._read(stage, split) if trains else None)
        except Unfinished:
            raise self._stop.stopped("features computed so far are kept") from None
        except OSError as error:
            self._cuts[stage.index] = None
            self._reporter.warn(f"features are computed anew in every step: {full(error) or error}")
            return stage, split

    def _read(self, stage: Stage, split: Split) -> np.ndarray:
        """Those of the training examples that the stage's steps read: all, but for a stage of less than an epoch."""
        sampler, seed = examples.sampler(self._experiment, stage.config, split), self._experiment.run.seed
        feed = Feed(split=split, encodings=stage.spec.port.encodings, sampler=sampler)
        return rows_read(feed, seed=seed, batch_size=stage.config.batch_size, start=stage.start, stop=stage.stop)

    def features(self, stage: Stage, state: State, split: Split) -> Split:
        """The examples with their features, stored or not, for a stage that is fitted at once; raises likewise."""
        ran, read = self(stage, state, split)
        try:
            return read if ran is not stage else self._of(stage, state, FEATURES).in_memory(split, state)
        except Unfinished:
            raise self._stop.stopped("features that are not stored are computed again") from None

    def _of(self, stage: Stage, state: State, at: str) -> Cached:
        if self._kept is None or self._kept.plain is not stage:
            run, say = self._experiment.run, self._reporter.say
            options = {"batch_size": run.eval_batch_size, "stop": self._stop, "say": say}
            how = {"at": at, "dtype": run.cache_dtype, "views": self._views}
            code = code_version(self._experiment.model.name)
            self._kept = of_stage(stage, state, self._where, code, **how, **options)
        return self._kept

    def cost(self, stage: Stage) -> tuple[Stage, dict[str, Any]]:
        """(a stage as it ran, what its features cost this process, for result.json)."""
        at, kept = self._cut(stage), self._kept
        if at is None:
            return stage, {}
        if kept is None or kept.plain is not stage:  # trained by an earlier attempt
            return cut_at(stage, at, self._views[0]), {}
        return kept.stage, {"features": {"computed": kept.computed, "seconds": round(kept.seconds, 3)}}

    def _cut(self, stage: Stage) -> str | None:
        if stage.index not in self._cuts:
            self._cuts[stage.index] = cut(stage, self._where, self._experiment).at
        return self._cuts[stage.index]

    @property
    def _views(self) -> tuple[int, tuple[str, ...]]:
        augment = tuple(self._experiment.data.augment)
        return (self._experiment.run.views, augment) if self._experiment.run.cache == "views" and augment else (1, ())


@functools.lru_cache(maxsize=8)
def code_version(model: str) -> str:
    """sha256 (hex) of the code that computes a model's features, a user's own among it."""
    root = Path(jaxfer.__file__).parent
    files = {
        file for entry in CODE for file in ((root / entry).rglob("*.py") if (root / entry).is_dir() else [root / entry])
    }
    named = {file.relative_to(root).as_posix(): file for file in files} | {
        file.name: file for file in MODELS.sources(model)
    }
    return of_content(part for name, file in sorted(named.items()) for part in (name, file.read_bytes()))


@functools.lru_cache(maxsize=8)
def _step(port: Port, at: str, where: Placement, structure: Any, shardings: tuple[Any, ...]) -> Any:
    """(params, model_state, batch) -> what is read at the cut, float32 [b, ...]."""
    before = None if at == FEATURES else port.units[port.units.index(at) - 1]

    def step(params: Any, model_state: Any, batch: Any) -> jax.Array:
        if before is None:
            return port.forward(params, model_state, batch, taps=(FEATURES,)).taps[FEATURES].astype(np.float32)
        return port.apply(params, model_state, batch, end=before)[0].astype(np.float32)

    arguments = jax.tree.unflatten(structure, shardings)
    return jax.jit(step, in_shardings=(*arguments, where.batched), out_shardings=where.batched)
