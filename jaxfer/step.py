"""The training and evaluation steps: pure functions of arrays, no mesh, no files. Read them top to bottom."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfer import streams as beside
from jaxfer.errors import InputError
from jaxfer.measuring import another_pass, evaluation
from jaxfer.method import FROZEN, Context, Method, SubStep, Taken
from jaxfer.models.execution import PLAIN, Execution
from jaxfer.models.port import Port, Training
from jaxfer.optim import Leaf, make_tx, of_groups
from jaxfer.rules import flatten, unflatten
from jaxfer.state import State, copied
from jaxfer.streams import StreamSpec
from jaxfer.task import Task

# Folded into a step's key: of another pass, of a random view, and of each sub-step after the first.
ANOTHER, VIEW, SUBSTEP = 2**31, 2**31 + 1, 2**31 + 2
WHOLE = SubStep()  # moves all
Batch = Mapping[str, Any]  # of arrays; a stream, or what another network reads of the same examples, is a dict in it


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSpec:
    """The static part of a stage's steps; runs with equal specs share one compiled program.

    Attributes:
      port: the model.
      task: the loss.
      method: the transfer method.
      leaves: (path, update rule; None: frozen) of every parameter, including those the method adds.
      live: units with a trainable leaf or an adapter; dropout acts only there.
      eval_norms: normalisation modules that keep their running statistics.
      dropout: (path, rate) of the dropout modules that have another rate than the model's.
      optimizer: a key of `OPTIMIZERS`.
      schedule: a key of `SCHEDULES`.
      clip: a key of `CLIPS`.
      momentum_dtype: storage type of the first moment.
      execution: precision, rematerialisation and sharding of the units.
      accumulate: slices of a batch, one after the other.
      axis_name: the mapped axis under pmap, else None.
      streams: beside the main one, as this stage reads them.
      others: (name, network without its arrays) of each other network that the method reads.
    """

    port: Port
    task: Task
    method: Method
    leaves: tuple[tuple[str, Leaf | None], ...]
    live: frozenset[str]
    eval_norms: frozenset[str]
    optimizer: str
    schedule: str
    clip: str = "norm"
    momentum_dtype: str = "float32"
    execution: Execution = PLAIN
    accumulate: int = 1
    axis_name: str | None = None
    others: tuple[tuple[str, Any], ...] = ()
    streams: tuple[StreamSpec, ...] = ()
    dropout: tuple[tuple[str, float], ...] = ()

    @property
    def executed_streams(self) -> tuple[StreamSpec, ...]:
        """The streams, their ports with this stage's execution settings."""

        def executed(stream: StreamSpec) -> StreamSpec:
            if stream.port is None:
                return stream
            return dataclasses.replace(stream, port=stream.port.with_axis(self.axis_name).computed(self.execution))

        return tuple(executed(stream) for stream in self.streams)

    @property
    def model(self) -> Port:
        """The port with this stage's execution settings."""
        return self.port.with_axis(self.axis_name).computed(self.execution)

    def of_stream(self, name: str) -> StepSpec:
        """What evaluates a stream's own task under its own head."""
        stream = next(stream for stream in self.streams if stream.name == name)
        return dataclasses.replace(self, port=stream.port, task=stream.task, streams=())

    @property
    def trainable(self) -> dict[str, Leaf]:
        """{path: update rule} of the trainable parameters."""
        return {path: leaf for path, leaf in self.leaves if leaf is not None}

    @property
    def frozen(self) -> frozenset[str]:
        """Paths of the parameters that these steps leave as they are."""
        return frozenset(path for path, leaf in self.leaves if leaf is None)

    def tx(self, hparams: Mapping[str, jax.Array], step: jax.Array) -> optax.GradientTransformationExtraArgs:
        """The optimizer at this step's hyperparameters."""
        return make_tx(
            self.trainable,
            hparams,
            step,
            optimizer=self.optimizer,
            schedule_name=self.schedule,
            clip=self.clip,
            momentum_dtype=self.momentum_dtype,
        )


def make_state(
    spec: StepSpec, params: Any, model_state: Any, extra: Any, hparams: Mapping[str, Any], key: jax.Array
) -> State:
    """A stage's first State, of which every leaf may be donated.

    It takes the memory of `params` and `extra`, which belong to it alone; the rest is copied: an optimizer may begin
    with the parameters themselves, and `model_state` and `key` are the caller's.
    """
    hparams = {name: jnp.asarray(value, jnp.float32) for name, value in hparams.items()}
    step = jnp.zeros((), jnp.int32)
    leaves, form = jax.tree.flatten(spec.tx(hparams, step).init(split(params, spec.trainable)[0]))
    for at in range(len(leaves)):  # one at a time: moments are twice the parameters
        leaves[at] = jnp.array(leaves[at], copy=True)
    rest = copied(State(step, {}, model_state, (), {}, hparams, key))
    return rest.replace(params=params, extra=extra, opt_state=jax.tree.unflatten(form, leaves))


def make_train_step(spec: StepSpec) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """(state, batch) -> (state, {loss, grad_norm, accuracy, ...: [] float32}).

    Gradients are taken with respect to the trainable leaves alone: the frozen backward is never computed, whatever
    is clipped or logged.
    """
    port, task, method, axis = spec.model, spec.task, spec.method, spec.axis_name
    streams = spec.executed_streams
    trainable_paths, groups = spec.trainable, {path: leaf.group if leaf else FROZEN for path, leaf in spec.leaves}

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)
        if axis is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        trainable, frozen = split(state.params, trainable_paths)
        others = {name: net.along(spec.execution).with_arrays(*state.others[name]) for name, net in spec.others}

        def settings(key):
            return Training(key=key, live=spec.live, eval_norms=spec.eval_norms, dropout=spec.dropout)

        def context(params, batch, key, substep="", model_state=state.model_state, hparams=state.hparams, **kept):
            evaluate = evaluation(port, model_state, batch)
            forward = another_pass(port, model_state, batch, lambda: settings(jax.random.fold_in(key, ANOTHER)))
            kept |= {"others": others, "forward": forward, "substep": substep, "model_state": model_state}
            return Context(evaluate, task, batch, params, state.extra, hparams, groups, state.step, key, **kept)

        def loss_fn(hparams, number, substep, still, begun, trainable, model_state, batch, key):
            params = unflatten({**frozen, **still, **trainable})
            if method.weights is not None:
                learned = method.weights(params)
                hparams = {**hparams, **{f"{beside.WEIGHT}/{name}": weight for name, weight in learned.items()}}
            if method.noisy_view is None:
                seen = method.view(params, state.extra)
            else:
                seen = method.noisy_view(params, state.extra, jax.random.fold_in(key, VIEW))
            (outputs, model_state, taps), shown = beside.forward(
                port,
                streams,
                seen,
                model_state,
                batch,
                training=settings(key),
                intercept=method.intercept(params, state.extra),
                taps=method.taps,
                main=method.main,
                separate=method.separate,
            )
            ctx = context(params, batch, key, substep, begun, hparams, taps=taps, streams=shown)
            loss, logged = method.loss(ctx, outputs)
            # Tasks of streams are learned once a step, however many updates it has.
            added, others = (0.0, {}) if number else beside.losses(streams, shown, batch, hparams)
            scores = dict(task.trained(outputs, batch, hparams)) if method.main else {}
            if method.by_examples:
                scores.pop("loss", None)
            if spec.accumulate > 1 or axis is not None:
                beside.check_slices(scores.get("loss"), others)
            loss, scores = loss + added, {**scores, **others}
            count = scores.pop("loss").parts() if "loss" in scores else None
            parts = {name: (mean.value(), mean.parts()) for name, mean in scores.items()}
            parts |= {name: (value, count) for name, value in {**logged, "loss": loss}.items()}
            return loss, (parts, model_state)

        if method.batch is not None:
            batch = method.batch(context(state.params, batch, key))

        found = []  # gradients, a call each

        def moved(number, substep, now, model_state, opt_state, metrics):
            """(trainable leaves, running statistics, optimizer's state, gradients, metrics) after a sub-step."""
            own = jax.random.fold_in(key, SUBSTEP + number) if number else key
            moving = [path for path in now if not substep.groups or groups[path] in substep.groups]
            if substep.groups and not moving:
                raise InputError(
                    f"the method's sub-step {substep.name!r} moves {' and '.join(substep.groups)}, of which nothing is "
                    "trained; freeze less, or use another method"
                )

            def whole_batch(trainable, hparams=state.hparams):
                still = {path: x for path, x in trainable.items() if path not in moving}
                at = functools.partial(loss_fn, hparams, number, substep.name, still, model_state)
                gradient = _accumulated(jax.grad(at, has_aux=True), spec.accumulate)
                grads, (parts, after) = gradient({path: trainable[path] for path in moving}, model_state, batch, own)
                if axis is not None:
                    grads, parts = _over_devices(grads, parts, axis)
                found.append({path: grads[path] if path in grads else jnp.zeros_like(now[path]) for path in now})
                return found[-1], (parts, after)

            before = context(unflatten({**frozen, **now}), batch, own, substep.name, model_state)
            grads, (parts, after) = method.gradient(whole_batch, before, now)
            metrics = {**{name: value for name, (value, _) in parts.items()}, **metrics}
            updates, opt_after = spec.tx(state.hparams, state.step).update(grads, opt_state, now, value=metrics["loss"])
            if number or substep.groups:
                moves = substep.groups or set(groups.values())
                opt_after = of_groups(moves, opt_after, opt_state, watched=not number)
            now = {**now, **optax.apply_updates(*({path: tree[path] for path in moving} for tree in (now, updates)))}
            return now, after, opt_after, grads, metrics

        now, model_state, opt_state, metrics, norm = trainable, state.model_state, state.opt_state, {}, None
        for number, substep in enumerate(method.substeps or (WHOLE,)):
            now, model_state, opt_state, grads, metrics = moved(number, substep, now, model_state, opt_state, metrics)
            norm = optax.tree.norm(grads) if norm is None else norm
        params = unflatten({**frozen, **now})
        taken = Taken(trainable, (found or [grads])[0], metrics)
        extra = method.update(context(params, batch, key, taken=taken, model_state=model_state), state.extra)
        if axis is not None:  # values computed from this device's examples are averaged, kept values are not
            extra = jax.tree.map(functools.partial(_averaged, axis), extra, state.extra)
        state = state.replace(
            step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state, extra=extra
        )
        return state, {**metrics, "grad_norm": norm}

    return train_step


def _accumulated(gradients: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Gradients and metrics of the whole batch from `count` slices of it, of which one at a time is in memory.

    A slice is every `count`-th example: on each device some of those it has already. The model's state passes through
    the slices in turn. A slice weighs by its share of what the loss counts.
    """
    if count == 1:
        return gradients

    def accumulate(trainable, model_state, batch, key):
        def add(carry, part):
            sums, unit, model_state = carry
            i, batch = part
            grads, (parts, model_state) = gradients(trainable, model_state, batch, jax.random.fold_in(key, i))
            if (share := parts["loss"][1]) is not None:  # in units of the first slice that has any, so as not to grow
                unit = jnp.where(unit > 0, unit, share)
                grads = _times(grads, share / _divisor(unit))
            return (jax.tree.map(jnp.add, sums, grads), unit, model_state), parts

        slices = jax.tree.map(lambda v: v.reshape(-1, count, *v.shape[1:]).swapaxes(0, 1), dict(batch))
        begin = (jax.tree.map(jnp.zeros_like, trainable), jnp.zeros(()), model_state)
        (grads, unit, model_state), parts = jax.lax.scan(add, begin, (jnp.arange(count), slices))
        grads = jax.tree.map(lambda x: x / count, grads)
        if (shares := parts["loss"][1]) is not None:
            grads = _times(grads, unit / _divisor(shares.mean()))
        return grads, ({name: _mean(x, n, jnp.mean) for name, (x, n) in parts.items()}, model_state)

    return accumulate


def _over_devices(grads: Any, parts: Mapping[str, Any], axis: str) -> tuple[Any, Mapping[str, Any]]:
    """Gradients and metrics of the whole batch from those of each device of a mapped axis."""
    mean = functools.partial(jax.lax.pmean, axis_name=axis)
    if (share := parts["loss"][1]) is not None:
        grads = _times(grads, share / _divisor(mean(share)))
    return mean(grads), {name: _mean(x, n, mean) for name, (x, n) in parts.items()}


def _mean(values: jax.Array, counts: jax.Array | None, mean: Callable[..., Any]) -> tuple[jax.Array, jax.Array | None]:
    """(the mean of means over so many parts each, the mean count); without counts all have as many."""
    if counts is None:
        return mean(values), None
    return mean(values * counts) / _divisor(mean(counts)), mean(counts)


def _times(tree: Any, factor: jax.Array) -> Any:
    return jax.tree.map(lambda x: x * factor, tree)


def _divisor(count: jax.Array) -> jax.Array:
    return jnp.where(count > 0, count, 1)


@functools.lru_cache(maxsize=64)
def as_trained(method: Method) -> Method:
    """The method whose evaluation is of the parameters as they are trained: not of averages, and not adapting."""
    return dataclasses.replace(method, evaluated=None, adapt=None, statistics=UNCHANGED.statistics)


UNCHANGED = Method(rules=())  # evaluates the parameters as they are


def evaluated(spec: StepSpec) -> StepSpec:
    """The part of a spec that evaluation reads: equal for methods that differ in training alone.

    Its method is UNCHANGED where the spec's own takes the defaults of `view`, `evaluated`, `statistics` and
    `intercept`; such a step reads no `extra`.
    """
    own = spec.method
    default = own.evaluated is None and all(
        getattr(own, name) is getattr(UNCHANGED, name) for name in ("view", "statistics", "intercept")
    )
    return StepSpec(
        port=spec.port,
        task=spec.task,
        method=UNCHANGED if default else own,
        leaves=(),
        live=frozenset(),
        eval_norms=frozenset(),
        optimizer="",
        schedule="",
        execution=dataclasses.replace(spec.execution, remat=frozenset()),
        axis_name=spec.axis_name,
    )


def make_eval_step(spec: StepSpec) -> Callable[[Any, Any, Any, Batch], dict[str, Any]]:
    """(params, model_state, extra, batch) -> {metric: Mean of [batch]} and `collected`, what the task collects.

    The method's `view` and `intercept` are the training step's own, at the parameters that it evaluates. Totals and
    counts are left per example: the host sums them in float64 and leaves out the padding, so they are exact on any
    number of devices.
    """
    port, task, method = spec.model, spec.task, spec.method

    def eval_step(params: Any, model_state: Any, extra: Any, batch: Batch) -> dict[str, Any]:
        (seen, intercept), model_state = method.seen(params, extra), method.statistics(model_state, extra)
        outputs, _ = port.apply(seen, model_state, batch, intercept=intercept)
        collected = task.collect(outputs, batch)
        if task.decodes:
            collected |= task.decode(port, seen, model_state, intercept, batch)
        return {**task.scores(outputs, batch), "collected": collected}

    return eval_step


def make_adapt_step(spec: StepSpec) -> Callable[[Any, Any, Any, Any, Batch], tuple[dict[str, Any], Any]]:
    """(params, model_state, extra, what is kept, batch) -> (what an evaluation step gives, what is kept then)."""
    port, task, method = spec.model, spec.task, spec.method
    settings = Training(key=jax.random.key(0), live=frozenset(), eval_norms=frozenset())

    def adapt_step(params: Any, model_state: Any, extra: Any, kept: Any, batch: Batch) -> tuple[dict[str, Any], Any]:
        (seen, intercept), model_state = method.seen(params, extra), method.statistics(model_state, extra)

        def forward(backbone: Any, other: Batch = batch) -> jax.Array:
            return port.apply(backbone, model_state, other, training=settings, intercept=intercept)[0]

        outputs, kept = method.adapt.step(kept, seen, forward, batch)
        return {**task.scores(outputs, batch), "collected": task.collect(outputs, batch)}, kept

    return adapt_step


def _averaged(axis: str, new: jax.Array, old: jax.Array) -> jax.Array:
    return new if new is old or not jnp.issubdtype(new.dtype, jnp.floating) else jax.lax.pmean(new, axis)


def split(params: Any, trainable: Mapping[str, Any]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Nested params -> ({path: trainable leaf}, {path: frozen leaf})."""
    leaves = flatten(params)
    return (
        {path: leaf for path, leaf in leaves.items() if path in trainable},
        {path: leaf for path, leaf in leaves.items() if path not in trainable},
    )
