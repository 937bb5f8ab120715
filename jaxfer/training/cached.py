"""Stages that train the output layer alone run on stored features: what it reads of an example is computed once.

The network below the layer is frozen and deterministic then. Its activations lie in a file under a key of all that they
depend on (`feature_store`), for every later epoch, seed, rate, label count and method.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import jaxfer
from jaxfer import rules
from jaxfer.config.experiment import Experiment
from jaxfer.data.encoding import stated
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.data.lookup import fingerprint as of_content
from jaxfer.data.split import Array, Split
from jaxfer.errors import full
from jaxfer.models.port import FEATURES, Port, Training
from jaxfer.parallel import cluster
from jaxfer.parallel.placement import Placement
from jaxfer.ports import port_shapes
from jaxfer.registry import MODELS
from jaxfer.runs.finished import fingerprint
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.step import StepSpec
from jaxfer.training import feature_store
from jaxfer.training.feature_store import Store
from jaxfer.training.preemption import Notice
from jaxfer.training.programs import train_step
from jaxfer.training.progress import Reporter

# What activations are computed by: the key changes with it.
CODE = (
    "models",
    "data/encodings",
    "data/encoding.py",
    "data/split.py",
    "training/cached.py",
    "training/feature_store.py",
)


def reason(stage: Stage, where: Placement, experiment: Experiment) -> str | None:
    """Why a stage of the config can't run on stored features on these devices; None where it can."""
    if experiment.run.cache == "off":
        return "config.cache is off"
    if feature_store.root() is None:
        return "JAXFER_CACHE is off"
    return unlike(stage, where, experiment)


def unlike(stage: Stage, where: Placement, experiment: Experiment) -> str | None:
    """Why a stage's steps would be others on features computed once, stored or not; None where they are the same."""
    spec, port = stage.spec, stage.spec.port
    below = [path for path in spec.trainable if not path.startswith(f"{port.head}/")]
    if not cluster.alone() or where.mode == "pmap":
        return "pmap and several processes compute features in each step"
    if below:
        return f"{below[0]} is trained, below the output layer"
    if not port.outputs or port.apart or len(port.features) != 1:
        return "what the output layer reads is not one vector of an example"
    if augment := experiment.data.augment:
        return f"the examples are augmented ({', '.join(augment)})"
    if experiment.streams or spec.others:
        return "other streams or networks read the same batches"
    if moving := sorted(port.norms(port_shapes(port)[1]) - spec.eval_norms):
        return f"{moving[0]} takes its statistics from each batch"
    if _changes_below(_Alike.of(stage)):
        return f"method {stage.config.method!r} changes what is computed below the output layer"
    if spec.task.expand is not None or set(spec.task.shapes(1, port.outputs, port.example(1))) & set(port.inputs):
        return "the task makes its own inputs of an example"
    if dropout := _dropout(port):
        return f"{dropout} drops features at random"
    if error := _untraceable(_Alike.of(stage), where):
        return f"method {stage.config.method!r} needs the inputs ({error})"
    return None


def described(stage: Stage, where: Placement, experiment: Experiment, examples: int) -> str:
    """For `jaxfer show`: what is stored of so many examples, and where; or why nothing is."""
    if why := reason(stage, where, experiment):
        return f"computed in each step: {why}"
    (width,) = stage.spec.port.features
    store = Store(folder=feature_store.root(), count=examples, width=width)
    size = f"{width:,} values of {examples:,} examples, {examples * store.row.itemsize:,} bytes"
    return f"of the output layer, computed once: {size} in {store.folder}"


@dataclasses.dataclass(frozen=True)
class _Alike:
    """A stage, equal to those of the same steps: what is traced of one holds for all members of a sweep."""

    spec: StepSpec
    batch_size: int
    stage: Stage = dataclasses.field(compare=False)

    @classmethod
    def of(cls, stage: Stage) -> _Alike:
        return cls(stage.spec, stage.config.batch_size, stage)


@functools.lru_cache(maxsize=64)
def _untraceable(alike: _Alike, where: Placement) -> str | None:
    """The error, in one line, of a method that looks at more than features; None where its step reads them alone."""
    cut = on_features(alike.stage)
    try:
        jax.eval_shape(train_step(where.applied(cut.spec)), alike.stage.blank(0), cut.example())
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


@functools.lru_cache(maxsize=64)
def _changes_below(alike: _Alike) -> bool:
    """Whether the method intercepts activations, or its `view` makes other parameters of the frozen ones."""
    stage = alike.stage
    (params, _, extra), method, head = stage.shapes, stage.spec.method, f"{stage.spec.port.head}/"
    found = []

    def look(params: Any, extra: Any) -> None:  # traced: an array that a view hands on is the same tracer
        below = {path: leaf for path, leaf in rules.flatten(params).items() if not path.startswith(head)}
        found.append(method.intercept(params, extra) is not None)
        for view in {method.view, method.evaluated or method.view}:
            seen = rules.flatten(view(params, extra))
            found.extend(seen.get(path) is not leaf for path, leaf in below.items())

    jax.eval_shape(look, params, extra)
    return any(found)


def on_features(stage: Stage) -> Stage:
    """The stage, whose steps and evaluations read stored features."""
    port = stage.spec.port.from_features()
    return dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, port=port))


class Unfinished(Exception):
    """The process was asked to stop while it computed features; those that are done are kept."""


def of_stage(
    stage: Stage,
    state: State,
    where: Placement,
    code: str,
    *,
    batch_size: int,
    stop: object,
    say: Callable[[str], None],
) -> Cached:
    """The features of a stage that `reason` has nothing against.

    Args:
      stage: as planned.
      state: any of its States: below the output layer they are the same.
      where: its devices.
      code: `code_version`.
      batch_size: examples at once while features are computed.
      stop: true once the process is asked to stop.
      say: tells the user a line.
    """
    head = f"{stage.spec.port.head}/"
    below = {path: leaf for path, leaf in rules.flatten(state.params).items() if not path.startswith(head)}
    weights = fingerprint(below, state.model_state)
    ran, options = on_features(stage), {"batch_size": batch_size, "stop": stop, "say": say}
    return Cached(plain=stage, stage=ran, where=where, key={"weights": weights, "code": code}, **options)


@dataclasses.dataclass(kw_only=True, eq=False)
class Cached:
    """The stored features of a stage's examples.

    Attributes:
      plain: the stage as planned.
      stage: as it runs: its steps and evaluations read features.
      where, batch_size, stop, say: as in `of_stage`.
      key: of what features depend on, the weights and the code.
      seconds: spent on computing and checking features so far.
      computed: rows computed so far.
    """

    plain: Stage
    stage: Stage
    where: Placement
    key: dict[str, str]
    batch_size: int
    stop: object
    say: Callable[[str], None]
    seconds: float = 0.0
    computed: int = 0

    def split(self, split: Split, state: State) -> Split:
        """The same examples with a column of their features, all of them computed.

        Raises:
          Unfinished: the process is asked to stop.
          OSError: the file can't be written, or there is no room for it within the limit.
        """
        begun = time.perf_counter()
        store, about = self._store(split)
        with store.locked(lambda: self.say("waiting for another run, which computes the same features")):
            store.open(about)
            missing = store.missing(split.rows)
            if len(missing):
                if not feature_store.make_room(len(missing) * store.row.itemsize, store.folder):
                    raise OSError(f"those of {len(missing):,} examples would take more than the cache's limit")
                for rows, values in self._features(dataclasses.replace(split, rows=missing), state):
                    store.write(rows, values)
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
        values = np.empty((count, self.plain.spec.port.features[0]), np.float32)  # untouched rows take no room
        for part, found in self._features(dataclasses.replace(split, rows=rows), state):
            values[part] = found
        self.seconds += time.perf_counter() - begun
        self.computed += len(rows)
        return split.with_column(FEATURES, Array(values, FEATURES))

    def _store(self, split: Split) -> tuple[Store, dict[str, Any]]:
        spec, root = self.plain.spec, feature_store.root()
        port = spec.port
        columns = {encoding.column: split.columns[encoding.column] for encoding in port.encodings}
        about = {
            **self.key,
            "module": repr(port.module.clone(outputs=1)),
            "encodings": [stated(encoding) for encoding in port.encodings],
            "columns": {name: column.sha256 for name, column in columns.items()},
            "unit": FEATURES,
            "dtypes": [list(pair) for pair in spec.execution.dtypes],
            "device": jax.default_backend(),
            "jax": jax.__version__,
        }
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        (count,) = {len(column) for column in columns.values()}
        return Store(folder=root / key, count=count, width=port.features[0]), {**about, "rows": count}

    def _features(self, split: Split, state: State) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, their features), batch by batch; texts from short to long."""
        spec, where = self.plain.spec, self.where
        feed = Feed(split=split, encodings=spec.port.encodings)
        lengths = feed.bind().lengths
        if lengths is not None:
            feed = dataclasses.replace(feed, split=split.take(np.argsort(lengths, kind="stable")))
        rows, size = feed.split.rows, where.rounded(self.batch_size)
        arguments = state.params, state.model_state
        shardings = where.shardings(spec, state.params, arguments)
        step = _step(where.applied(spec), where, jax.tree.structure(shardings), tuple(jax.tree.leaves(shardings)))
        begin = 0
        with contextlib.closing(eval_batches(feed, batch_size=size)) as batches:  # its threads end with it
            for batch in where.feed(batches, train=False):
                if self.stop:
                    raise Unfinished
                del batch["mask"]  # padding comes last
                part = rows[begin : begin + size]
                yield part, jax.device_get(step(*arguments, batch))[: len(part)]
                begin += size


class Reading:
    """How the stages of a run read their examples: stored features where steps are the same on them."""

    def __init__(self, experiment: Experiment, where: Placement, stop: Notice, reporter: Reporter):
        self._experiment, self._where, self._stop, self._reporter = experiment, where, stop, reporter
        self._plain: dict[int, bool] = {}  # stages that read their examples as they are
        self._kept: Cached | None = None  # of the stage under way

    def __call__(self, stage: Stage, state: State, split: Split) -> tuple[Stage, Split]:
        """The stage and these examples as its steps and evaluations read them.

        Raises:
          Preempted: the process is asked to stop while it computes features.
          Interrupted: likewise, by Ctrl-C.
        """
        if stage.index not in self._plain:
            self._plain[stage.index] = reason(stage, self._where, self._experiment) is not None
        if self._plain[stage.index]:
            return stage, split
        try:
            kept = self._of(stage, state)
            return kept.stage, kept.split(split, state)
        except Unfinished:
            raise self._stop.stopped("features computed so far are kept") from None
        except OSError as error:
            self._plain[stage.index] = True
            self._reporter.warn(f"features are computed anew in every step: {full(error) or error}")
            return stage, split

    def features(self, stage: Stage, state: State, split: Split) -> Split:
        """The examples with their features, stored or not, for a stage that is fitted at once; raises likewise."""
        ran, read = self(stage, state, split)
        try:
            return read if ran is not stage else self._of(stage, state).in_memory(split, state)
        except Unfinished:
            raise self._stop.stopped("features that are not stored are computed again") from None

    def _of(self, stage: Stage, state: State) -> Cached:
        if self._kept is None or self._kept.plain is not stage:
            code, say = code_version(self._experiment.model.name), self._reporter.say
            options = {"batch_size": self._experiment.run.eval_batch_size, "stop": self._stop, "say": say}
            self._kept = of_stage(stage, state, self._where, code, **options)
        return self._kept

    def cost(self, stage: Stage) -> tuple[Stage, dict[str, Any]]:
        """(a stage as it ran, what its features cost this process, for result.json)."""
        kept = self._kept
        if kept is None or kept.plain is not stage or self._plain[stage.index]:
            return stage, {}
        return kept.stage, {"features": {"computed": kept.computed, "seconds": round(kept.seconds, 3)}}


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
def _step(spec: StepSpec, where: Placement, structure: Any, shardings: tuple[Any, ...]) -> Any:
    """(params, model_state, batch) -> what the output layer reads, float32 [b, width]."""
    port = spec.model

    def step(params: Any, model_state: Any, batch: Any) -> jax.Array:
        return port.forward(params, model_state, batch, taps=(FEATURES,)).taps[FEATURES].astype(np.float32)

    arguments = jax.tree.unflatten(structure, shardings)
    return jax.jit(step, in_shardings=(*arguments, where.batched), out_shardings=where.batched)


@functools.lru_cache(maxsize=64)
def _dropout(port: Port) -> str | None:
    """The first module of the head unit, before the entrance, that draws in training."""
    found, unit = [], port.units[-1]

    def watch(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if isinstance(context.module, nn.Dropout) and context.module.rate and path != port.entrance:
            found.append(path)
        return next_fun(*args, **kwargs)

    def head(key: jax.Array) -> Any:
        read, side = port.anything(2)
        batch = {port.inputs[0]: read, **side}
        training = Training(key=key, live=frozenset({unit}), eval_norms=frozenset())
        params, model_state = jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), port_shapes(port))
        return port.apply(params, model_state, batch, training=training, intercept=watch, begin=unit)

    jax.eval_shape(head, jax.random.key(0))
    return found[0] if found else None
