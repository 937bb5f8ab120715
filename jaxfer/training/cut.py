"""The cut of a stage: the first unit that trains, moves or is changed by its method.

What is below it is frozen and deterministic, so that its activations can be computed once, in evaluation mode, for
every later epoch (`cached`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.config.experiment import Experiment
from jaxfer.models.port import FEATURES, Interceptor, Port, Training
from jaxfer.parallel import cluster
from jaxfer.parallel.placement import Placement
from jaxfer.ports import port_shapes
from jaxfer.stages import Stage
from jaxfer.step import StepSpec
from jaxfer.task import labels
from jaxfer.training import feature_store
from jaxfer.training.programs import train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a stage's steps and evaluations may begin.

    Attributes:
      at: the unit whose input is stored; `features`: what the output layer reads; None: every step begins at examples.
      why: why it is None; empty otherwise.
      shape: of what is stored of an example, that of the longest bucket.
    """

    at: str | None = None
    why: str = ""
    shape: tuple[int, ...] = ()

    @property
    def values(self) -> int:
        """Stored values of an example."""
        return math.prod(self.shape)


def cut(stage: Stage, where: Placement, experiment: Experiment) -> Cut:
    """The cut of a stage of the config on these devices."""
    if experiment.run.cache == "off":
        return Cut(why="config.cache is off")
    if feature_store.root() is None:
        return Cut(why="JAXFER_CACHE is off")
    texts = any(encoding.buckets for encoding in stage.spec.port.encodings)  # other tokens, so another attention mask
    augment = () if experiment.run.cache == "views" and not texts else experiment.data.augment
    if why := _differs(stage, where, experiment, augment):
        return Cut(why=why)
    at, shape = FEATURES, stage.spec.port.features
    if _not_at_output(stage):
        at, why = _unit(stage)
        if why:
            return Cut(why=why)
        shape = stage.spec.port.passed(at).shape[1:]
    if error := _untraceable(Alike.of(stage), at, where):
        return Cut(why=f"method {stage.config.method!r} needs the inputs ({error})")
    return Cut(at=at, shape=shape)


def at_output(stage: Stage, where: Placement, experiment: Experiment) -> str | None:
    """Why the output layer of a stage doesn't read the same in every epoch; None where it does."""
    why = _differs(stage, where, experiment, experiment.data.augment) or _not_at_output(stage)
    if not why and (error := _untraceable(Alike.of(stage), FEATURES, where)):
        why = f"method {stage.config.method!r} needs the inputs ({error})"
    return why


def notes(stages: Sequence[Stage], where: Placement, experiment: Experiment) -> tuple[str, ...]:
    """For `jaxfer run`: why features are computed in every step although nothing below the output layer is trained.

    A line for each reason, with the first of its stages; none where features are not to be kept.
    """
    if experiment.run.cache == "off" or feature_store.root() is None:
        return ()
    found: dict[str, Stage] = {}
    for stage in stages:
        if not trained_below(stage.spec) and (why := cut(stage, where, experiment).why):
            found.setdefault(why, stage)
    told = "nothing below the output layer is trained, but what it reads is computed in every step"
    of = {why: f"stage {stage.name}: " if experiment.run.stages else "" for why, stage in found.items()}
    return tuple(f"{of[why]}{told}: {why}" for why in found)


def cut_at(stage: Stage, at: str, views: int = 1) -> Stage:
    """The stage, whose steps and evaluations begin at stored activations."""
    spec = stage.spec
    port = spec.port.beginning(at, inputs=not spec.task.of_labels and spec.task.targets is not labels, views=views)
    return dataclasses.replace(stage, spec=dataclasses.replace(spec, port=port))


def _differs(stage: Stage, where: Placement, experiment: Experiment, augment: tuple[str, ...]) -> str | None:
    """What makes the inputs of a stage others in every epoch, or its devices unable to share what is stored."""
    spec = stage.spec
    if not cluster.alone() or where.mode == "pmap":
        return "pmap and several processes compute features in each step"
    if spec.method.batch is not None:
        return f"{stage.config.named} changes the examples of each batch"
    if spec.method.adapt is not None:
        return f"{stage.config.named} adapts the network to what it evaluates"
    if augment:
        return f"the examples are augmented ({', '.join(augment)})"
    # A stream that this stage does not read is still evaluated, where it has examples of its own or a task.
    evaluated = any(stream.source is not None or stream.task for _, stream in experiment.streams)
    if spec.streams or spec.others or evaluated:
        return "other streams or networks read the same batches"
    if spec.task.expand is not None or set(spec.task.shapes(1, spec.port.outputs, spec.port.example(1))) & set(
        spec.port.inputs
    ):
        return "the task makes its own inputs of an example"
    return None


def _not_at_output(stage: Stage) -> str | None:
    """Why what the output layer reads can't be stored."""
    spec, port = stage.spec, stage.spec.port
    if below := trained_below(spec):
        return f"{below[0]} is trained, below the output layer"
    if not port.outputs or port.apart or len(port.features) != 1:
        return "what the output layer reads is not one vector of an example"
    if moving := _moving(spec):
        return f"{moving[0]} takes its statistics from each batch"
    if _changed(Alike.of(stage))[1]:
        return f"method {stage.config.method!r} changes what is computed below the output layer"
    if dropout := _dropout(port, spec.dropout):
        return f"{dropout} drops features at random"
    return None


def _unit(stage: Stage) -> tuple[str, str]:
    """(the unit of the cut, why there is none)."""
    spec, port = stage.spec, stage.spec.port
    first = {unit: f"{path} is trained" for path in reversed(spec.trainable) if (unit := port.unit(path))}
    moving = {path.split("/")[0]: f"{path} takes its statistics from each batch" for path in reversed(_moving(spec))}
    first = moving | first
    if not _early(port, first):
        changed = f"method {stage.config.method!r} changes what is computed"
        first = dict.fromkeys(_changed(Alike.of(stage))[0], changed) | first
    at = next((unit for unit in port.units if unit in first), None)
    if at is None:
        return "", "no unit of the model is trained"
    if _early(port, first):  # looking up embeddings again is cheaper than reading what they give
        return "", f"{first[at]}, in unit {at!r}"
    if port.apart:
        return "", "the two texts of a pair are read apart"
    passed = port.passed(at)
    tokens = next((encoding.buckets[-1] for encoding in port.encodings if encoding.buckets), None)
    if not hasattr(passed, "shape") or passed.shape[0] != 2 or (tokens and passed.shape[1:2] != (tokens,)):
        return "", f"what unit {at!r} reads is not one array of an example"
    return at, ""


def _early(port: Port, units: Mapping[str, str]) -> bool:
    """Whether one of these is the first unit or the second."""
    return any(unit in units for unit in port.units[:2])


def trained_below(spec: StepSpec) -> list[str]:
    """What is trained below the output layer."""
    return [path for path in spec.trainable if not path.startswith(f"{spec.port.head}/")]


def _moving(spec: StepSpec) -> list[str]:
    return sorted(spec.port.norms(port_shapes(spec.port)[1]) - spec.eval_norms)


@dataclasses.dataclass(frozen=True)
class Alike:
    """A stage, equal to those of the same steps: what is traced of one holds for all members of a sweep."""

    spec: StepSpec
    batch_size: int
    stage: Stage = dataclasses.field(compare=False)

    @classmethod
    def of(cls, stage: Stage) -> Alike:
        return cls(stage.spec, stage.config.batch_size, stage)


@functools.lru_cache(maxsize=64)
def _untraceable(alike: Alike, at: str, where: Placement) -> str | None:
    """The error, in one line, of a method that looks at more than what is stored; None where its step reads no more."""
    stage = cut_at(alike.stage, at)
    try:
        jax.eval_shape(train_step(where.applied(stage.spec)), alike.stage.blank(0), stage.example())
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


@functools.lru_cache(maxsize=64)
def _changed(alike: Alike) -> tuple[frozenset[str], bool]:
    """(units in which the method changes parameters or activations, whether it does so below the output layer)."""
    spec, (params, model_state, extra) = alike.stage.spec, alike.stage.shapes
    port, paths = spec.port, set()
    own = rules.flatten(port_shapes(port)[0])
    still = Training(key=jax.random.key(0), live=frozenset(), eval_norms=port.norms(model_state))

    # Traced: an array that is handed on is the same tracer.
    def look(params: Any, model_state: Any, extra: Any, batch: Any) -> None:
        leaves = rules.flatten(params)
        backbone = spec.method.view(params, extra)
        for each in (backbone, spec.method.seen(params, extra)[0]):
            seen = rules.flatten(each)
            paths.update(path for path in own if seen.get(path) is not leaves.get(path))
        if (intercept := spec.method.intercept(params, extra)) is not None:  # as in training: noise is of that alone
            port.apply(backbone, model_state, batch, training=still, intercept=_watched(intercept, paths))

    jax.eval_shape(look, params, model_state, extra, port.example(2))
    units = frozenset(unit for unit in map(port.unit, paths) if unit is not None)
    return units, any(not f"{path}/".startswith(f"{port.head}/") for path in paths)


def _watched(intercept: Interceptor, changed: set[str]) -> Interceptor:
    """The interceptor; paths of modules whose inputs or outputs it replaces are added to `changed`."""

    def watch(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        calls = []

        def called(*given: Any, **named: Any) -> Any:
            result = next_fun(*given, **named)
            same = len(given) == len(args) and all(x is y for x, y in zip(given, args, strict=True))
            calls.append((same and named == kwargs, result))
            return result

        outputs = intercept(called, args, kwargs, context)
        if len(calls) != 1 or not calls[0][0] or outputs is not calls[0][1]:
            changed.add("/".join(context.module.path))
        return outputs

    return watch


@functools.lru_cache(maxsize=64)
def _dropout(port: Port, rates: tuple[tuple[str, float], ...]) -> str | None:
    """The first module of the head unit, before the entrance, that draws in training under these rates."""
    found, unit, changed = [], port.units[-1], dict(rates)

    def watch(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if isinstance(context.module, nn.Dropout) and changed.get(path, context.module.rate) and path != port.entrance:
            found.append(path)
        return next_fun(*args, **kwargs)

    def head(key: jax.Array) -> Any:
        read, side = port.anything(2)
        batch = {port.inputs[0]: read, **side}
        training = Training(key=key, live=frozenset({unit}), eval_norms=frozenset())
        params, model_state = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), port_shapes(port))
        return port.apply(params, model_state, batch, training=training, intercept=watch, begin=unit)

    jax.eval_shape(head, jax.random.key(0))
    return found[0] if found else None
