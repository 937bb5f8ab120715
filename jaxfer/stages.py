"""Resolves an Experiment into stages: how each one treats every parameter, before any is allocated."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax

from jaxfer import freezing, rules
from jaxfer.config.experiment import Experiment, StageConfig
from jaxfer.errors import InputError, nearest
from jaxfer.measuring import make_measure
from jaxfer.method import FROZEN, NOTHING, Given, Method, task_loss
from jaxfer.models import parts
from jaxfer.models.execution import Execution
from jaxfer.models.port import Port
from jaxfer.optim import Leaf
from jaxfer.optim.schedules import SCHEDULES
from jaxfer.ports import of_stage, port_shapes, with_heads
from jaxfer.registry import ADDS, METHODS
from jaxfer.schema import LARGEST
from jaxfer.state import State
from jaxfer.step import StepSpec, make_state
from jaxfer.streams import StreamSpec, stream_hparams, stream_specs
from jaxfer.task import Task

# Hparams of every stage besides the rate of each group; reserved: no method or task may use these names.
STAGE_HPARAMS = frozenset({"layer_decay", "weight_decay", "momentum", "b2", "clip", "warmup", "min_lr", "total_steps"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage, planned.

    Attributes:
      name: its name in the config.
      index: its place in the run.
      start: number of steps of the run before it.
      config: its fields in the config.
      spec: the static part of its steps.
      hparams: the traced part: {name: value}.
      shapes: (params with the method's leaves, model_state, extra) as ShapeDtypeStructs.
      given: what its method's `init` is given beside the parameters, as ShapeDtypeStructs.
      notes: warnings about rules of the config that have no effect in this stage, a line each.
    """

    name: str
    index: int
    start: int
    config: StageConfig
    spec: StepSpec
    hparams: Mapping[str, float]
    shapes: tuple[Any, Any, Any]
    given: Given = NOTHING
    notes: tuple[str, ...] = ()

    @property
    def stop(self) -> int:
        """Number of steps of the run at the end of this stage."""
        return self.start + self.config.steps

    def enter(
        self, params: Any, model_state: Any, seed: int, given: Given = NOTHING, taken: Collection[str] = ()
    ) -> State:
        """The stage's first State, from backbone params of the source or of the previous stage, merged.

        Args:
          params: these.
          model_state: likewise.
          seed: the run's.
          given: of the shapes in the field of this name.
          taken: paths of params that nobody else holds: their memory becomes the State's.
        """
        key = jax.random.fold_in(self.step_key(seed), 2**32 - 1)
        given = dataclasses.replace(given, model_state=model_state)
        leaves = rules.flatten(params)
        own = {path: leaves.pop(path) for path in taken}
        params, extra = _compiled_init(self.spec.method)(own, leaves, key, given)
        return make_state(self.spec, params, model_state, extra, self.hparams, self.step_key(seed))

    def step_key(self, seed: int) -> jax.Array:
        """The PRNG key that the stage's steps fold; stream 0 is for fresh parameters, stages count from 1."""
        return jax.random.fold_in(jax.random.key(seed), self.index + 1)

    def leaves(self) -> dict[str, jax.ShapeDtypeStruct]:
        """{path: shape} of every parameter, including those the method adds."""
        return rules.flatten(self.shapes[0])

    def blank(self, seed: int) -> State:
        """The shapes of the stage's State, to be filled from a checkpoint."""
        shapes = (*port_shapes(self.spec.port), self.given)
        state = jax.eval_shape(lambda params, m, given: self.enter(params, m, seed, given), *shapes)
        return state.replace(others={name: network.arrays for name, network in self.spec.others})

    def example(self) -> dict[str, Any]:
        """Shapes of one training batch, with those of its streams and what other networks read of it."""
        spec, size = self.spec, self.config.batch_size
        streams = {stream.name: stream.shapes(spec.port) for stream in spec.streams if stream.trained}
        others = {network.reads: network.port.example(size) for _, network in spec.others if network.reads}
        return {**example_batch(spec.port, spec.task, size), **streams, **others}

    def leave(self, state: State, *, heads: bool = False, to: Stage | None = None) -> tuple[Any, Any]:
        """(backbone params, model_state) that the next stage, a later run or an export starts from.

        Args:
          state: the stage's last.
          heads: with those of the streams, for the next stage of the run.
          to: the next stage or the later run's, where `hand_on` may give it what no plain backbone has.

        Raises:
          InputError: the method has no plain backbone to leave.
        """
        method, name = self.spec.method, self.config.method
        if method.merge is None and not self._hands_on(to):
            raise InputError(
                f"method {name!r} adds modules that no plain {type(self.spec.port.module).__name__} has: there is no "
                "merged model to export or to start from; evaluate the run itself, or train with another method"
            )
        params = (method.merge or (lambda *read: method.seen(*read)[0]))(state.params, state.extra)
        params = params if heads else parts.without(params, (port.part for port in self.spec.port.parts))
        return params, method.statistics(state.model_state, state.extra)

    def _hands_on(self, to: Stage | None) -> bool:
        return None not in (self.spec.method.former, to and to.given.former) and self.config.method == to.config.method

    def hand_on(self, state: State, to: Stage) -> Any:
        """`Method.former` of the stage's last State, for a stage after it; None where the two have other methods.

        Raises:
          InputError: its shapes are not those that the other expects.
        """
        if not self._hands_on(to):
            return None
        kept = jax.jit(self.spec.method.former)(state.params, state.extra)
        found, wanted = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (kept, to.given.former))
        if found != wanted:
            raise InputError(
                f"method {to.config.method!r}: its source kept other shapes for it; use the same model and options"
            )
        return kept


@functools.lru_cache(maxsize=64)
def _compiled_init(method: Method) -> Any:
    """(params donated, other params by path, key, given) -> what `init` returns, each array with memory of its own."""

    def init(own: Any, others: Any, key: jax.Array, given: Given) -> Any:
        return method.init(rules.unflatten({**own, **others}), key, given)

    return jax.jit(init, donate_argnums=0)


def example_batch(port: Port, task: Task, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of one training batch: the port's input fields (texts: the longest bucket) and the task's targets."""
    encoded = (port.whole or port).example(batch_size)
    return {**port.example(batch_size), **task.shapes(batch_size, port.outputs, encoded)}


def make_stages(
    experiment: Experiment, port: Port, task: Task, classes: int = 0, streams: Mapping[str, int] | None = None
) -> tuple[Stage, ...]:
    """Every stage, checked: groups, rates, what is frozen; its config complete with the method's defaults.

    Args:
      experiment: the checked config.
      port: the model, as `make_port` makes it.
      task: the config's.
      classes: of the data, for the heads of stages with tasks of their own.
      streams: {name: number of classes} of the config's streams with a task.

    Raises:
      InputError: a rule that matches nothing, an unknown option, rates of other groups, or a stage that trains nothing.
    """
    given, stages, start = (port, task), [], 0
    for index, (name, config) in enumerate(experiment.stages):
        where = f"config.stage.{name}" if experiment.run.stages else "config"
        port, task, task_hparams = of_stage(experiment, config.task, *given, classes)
        port = with_heads(experiment, config, port, task, streams or {}, where)
        _, model_state = port_shapes(port)
        method = make_method(config, port, where)
        beside = stream_specs(experiment, config, method, port, where)
        _check_task(method, task, config, config.task or experiment.task.name, where)
        full, extra = method_shapes(method, port, task)
        for path, leaf in rules.flatten(full).items():
            if math.prod(leaf.shape) > LARGEST:  # XLA would abort without naming the parameter
                raise InputError(f"{path} would have shape {leaf.shape}; make config.model or {where}.options smaller")
        if (method.whole_batch or task.whole_batch) and config.accumulate > 1:
            whose = f"method {config.method!r}" if method.whole_batch else f"task {experiment.task.name!r}"
            raise InputError(
                f"{where}.accumulate: the loss of {whose} is of the batch as a whole, found "
                f"{config.accumulate} slices; set it to 1"
            )
        norms = freezing.norm_modes(config, port, where)
        groups = freezing.groups_of(config, method, port, full, norms, where)
        for model in port.parts:
            if not next(stream for stream in beside if stream.name == model.part.name).trained:
                groups |= {path: FROZEN for path in groups if path.startswith(f"{model.part.path}/")}
        config = _completed(config, method, where)
        spec = _spec(config, port, task, method, beside, groups, norms, where)
        freezing.check_dropout(config, spec, where)
        moving = port.norms(model_state) - spec.eval_norms
        fresh = not index and experiment.run.head != "keep"
        stages.append(
            Stage(
                name=name,
                index=index,
                start=start,
                config=config,
                spec=spec,
                hparams=_hparams(config, method, task_hparams, where) | stream_hparams(experiment, beside),
                shapes=(full, model_state, extra),
                given=given_shapes(method, port, task),
                notes=tuple(freezing.notes(config, method, groups, spec, len(moving), where, fresh_head=fresh)),
            )
        )
        start += config.steps
    freezing.check_averages(stages, named=bool(experiment.run.stages))
    return tuple(stages)


@functools.lru_cache(maxsize=64)
def method_shapes(method: Method, port: Port, task: Task) -> tuple[Any, Any]:
    """(params with the method's leaves, extra) as ShapeDtypeStructs."""
    params, model_state = port_shapes(port)
    given = dataclasses.replace(given_shapes(method, port, task), model_state=model_state)
    return jax.eval_shape(method.init, params, jax.random.key(0), given)


@functools.lru_cache(maxsize=64)
def given_shapes(method: Method, port: Port, task: Task) -> Given:
    """What `init` will be given, as ShapeDtypeStructs; an unknown source's head is as wide as the model's own."""
    head, measured = None, None
    if method.source_outputs is not None:
        leaves = rules.flatten(port_shapes(port.with_parts(()).with_outputs(method.source_outputs or port.outputs))[0])
        head = {path: leaf for path, leaf in leaves.items() if path.startswith(f"{port.head}/")}
    if method.measure is not None:
        measure = make_measure(port, task, method)
        rows = jax.eval_shape(measure, *port_shapes(port), Given(head=head), example_batch(port, task, 2))
        for leaf in jax.tree.leaves(rows):
            if leaf.shape[:1] != (2,):
                raise InputError(f"measure gives {list(leaf.shape)} for 2 examples; expected a row for each of them")
        means = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], "float32"), rows)
        measured = means if method.measured_as is None else method.measured_as.shapes
    given, before = Given(head=head, measured=measured), method.follows or method
    if before.former is None:
        return given
    params, model_state = port_shapes(port)
    begun = given if before is method else given_shapes(before, port, task)
    begun = dataclasses.replace(begun, model_state=model_state)
    former = jax.eval_shape(lambda *read: before.former(*before.init(*read)), params, jax.random.key(0), begun)
    return dataclasses.replace(given, former=former)


def _check_task(method: Method, learned: Task, config: StageConfig, task: str, where: str) -> None:
    if learned.loss is None and method.loss is task_loss:
        raise InputError(
            f"{where}.method: task {task!r} has no loss and method {config.method!r} brings none; use simclr"
        )
    if method.tasks and task not in method.tasks:
        raise InputError(
            f"{where}.method: {config.named.removeprefix('method ')} learns the task {' or '.join(method.tasks)}, "
            f"config.task is {task!r}; choose another of the two"
        )


def make_method(config: StageConfig, port: Port, where: str = "config") -> Method:
    """The stage's method with its structural options; checks that the hparams are known and don't clash."""
    method, schema, owner = None, {}, {}
    for room, name in ((METHODS, config.method), *((ADDS, name) for name in config.adds)):
        own = room.schema(name)
        structural = {k: v for k, v in config.options.items() if k in own}
        made = room.make(name, *((port,) if method is None else (method, port)), **structural)
        before = {} if method is None else method.hparams
        clashing = [hparam for hparam in before if hparam != "lr" and made.hparams.get(hparam) != before[hparam]]
        if taken := sorted(own.keys() & schema.keys()) + clashing:
            first = taken[0]
            raise InputError(f"{where}.adds: {name!r} has the option {first!r} as {owner[first]!r} has; choose one")
        owner |= dict.fromkeys((*own, *(made.hparams.keys() - before.keys())), name)
        method, schema = made, schema | own
    for name in method.hparams:
        if name in STAGE_HPARAMS or name in schema or "/" in name:
            raise InputError(f"method {config.method!r}: the name of its hparam {name!r} is taken; rename it")
    known = {*schema, *method.hparams} - {"lr"}
    for option, value in config.options.items():
        if option not in known:
            raise InputError(
                f"{where}.options.{option}: method {config.method!r} has no such option{nearest(option, known)}"
            )
        if option in method.hparams and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise InputError(f"{where}.options.{option}: expected float, found {value!r}")
    return method


def _completed(config: StageConfig, method: Method, where: str) -> StageConfig:
    """The config with the method's own defaults filled in, so that a default written out is the same experiment."""
    options = {name: value for name, (value, _) in method.hparams.items() if name != "lr"}
    for name, value in config.options.items():
        if name in method.hparams and not math.isfinite(value):
            raise InputError(f"{where}.options.{name}: expected a finite number, found {value}")
        least, most = method.limits.get(name, (-math.inf, math.inf))
        if name in method.limits and not least <= value <= most:
            raise InputError(f"{where}.options.{name}: expected {least:g} to {most:g}, found {value}")
        options[name] = float(value) if name in method.hparams else value
    schedule = {name: default for name, (default, _, _) in SCHEDULES[config.schedule].options.items()}
    config = dataclasses.replace(
        config, options=options, schedule_options=tuple({**schedule, **dict(config.schedule_options)}.items())
    )
    if method.at_once is not None:  # one step at no rate, whatever the config says
        config = dataclasses.replace(config, steps=1, warmup=0, lr=0.0, rates={})
        # A head's optimizer state is small; that of a whole model, which nothing will read, is left out.
        return config if method.merging is None else dataclasses.replace(config, optimizer="sgd", momentum=0.0)
    lr = config.lr
    if lr is None and not config.rates:
        if "lr" not in method.hparams:
            raise InputError(f"{where}.lr: method {config.method!r} has no default rate; set one")
        lr = method.hparams["lr"][0]
    return dataclasses.replace(config, lr=lr)


def _spec(
    config: StageConfig,
    port: Port,
    task: Task,
    method: Method,
    beside: tuple[StreamSpec, ...],
    groups: dict[str, str],
    norms: Mapping[str, str],
    where: str,
) -> StepSpec:
    trainable = [path for path, group in groups.items() if group != FROZEN]
    lr_scale = rules.resolve(config.lr_rules, groups, defaults=((".*", 1.0),), what="lr rule")
    decay_scale = rules.resolve(config.decay_rules, groups, defaults=port.no_decay, what="decay rule")
    forced = rules.select(config.eval_norms, norms, what=f"{where}.eval_norms pattern")
    # Statistics follow the batches where a norm learns, or where the config lets them move alone.
    moving = {norm for norm in norms if method.norms_alone or any(path.startswith(f"{norm}/") for path in trainable)}
    moving = {norm for norm, mode in norms.items() if mode == "stats_only" or (mode == "train" and norm in moving)}
    return StepSpec(
        port=port,
        task=task,
        method=method,
        leaves=tuple(
            (path, None)
            if group == FROZEN
            else (
                path,
                Leaf(
                    group=group,
                    depth=port.depth(path),
                    lr_scale=lr_scale[path],
                    decay_scale=decay_scale[path],
                    inputs=port.summed(path),
                    hidden=port.summed(path) > 0 and port.unit(path) not in (port.units[0], port.head, None),
                ),
            )
            for path, group in groups.items()
        ),
        live=frozenset(unit for unit in map(port.unit, trainable) if unit is not None),
        eval_norms=frozenset(norms.keys() - moving) | forced,
        optimizer=config.optimizer,
        schedule=config.schedule,
        clip=config.clip_mode,
        momentum_dtype=config.momentum_dtype,
        execution=_execution(config, port, where),
        accumulate=config.accumulate,
        streams=beside,
        dropout=freezing.dropout_rates(config, port, where),
    )


def _execution(config: StageConfig, port: Port, where: str) -> Execution:
    everywhere = ((".*", config.compute_dtype),)
    dtypes = rules.resolve(config.dtype_rules, port.units, defaults=everywhere, what=f"{where}.dtype_rules pattern")
    return Execution(
        dtypes=tuple((unit, dtype) for unit, dtype in dtypes.items() if dtype != "float32"),
        remat=rules.select(config.remat, port.units, what=f"{where}.remat pattern"),
    )


def _hparams(config: StageConfig, method: Method, task_hparams: Mapping[str, float], where: str) -> dict[str, float]:
    groups = sorted({group for _, group in method.rules} - {FROZEN})
    hparams = {
        **{
            f"lr/{group}": config.rates[group] if group in config.rates else config.lr * method.scales.get(group, 1.0)
            for group in groups
        },
        **{name: getattr(config, name) for name in ("layer_decay", "weight_decay", "momentum", "b2", "min_lr")},
        **{f"schedule/{name}": value for name, value in config.schedule_options},
        "clip": config.clip or math.inf,
        "warmup": float(config.warmup),
        "total_steps": float(config.steps),
        **{name: config.options[name] for name in method.hparams if name != "lr"},
    }
    for name in task_hparams:
        if name in hparams:
            raise InputError(f"{where}: the task's hparam {name!r} is also the stage's or its method's; rename it")
    return {**hparams, **task_hparams}
