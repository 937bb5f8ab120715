"""Method: a transfer method as pure functions, one file each in `jaxfer/methods/`. Every field has a default.

The defaults are plain fine-tuning. Training and evaluation share `view` and `intercept`, so an adapter can't be
forgotten at evaluation. A method names its groups of parameters; a stage gives each group its rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from jaxfer.linear import Fit
from jaxfer.merging import Merging
from jaxfer.rules import Rules
from jaxfer.task import Task

FROZEN = "FROZEN"
Params = Any

# What a method can ask of a stream: inputs whose labels stay sealed, a second view of the main batch's examples, a
# partner for each of these with its class (`batch[NAME]["label"]`), or a stream with a task and a head of its own.
UNLABELLED, SAME, PAIRS, TASK = STREAM_KINDS = ("unlabelled", "same", "pairs", "task")
WEIGHT = "weight"  # hparams `weight/NAME`: of a stream's loss
# What begins at the trained network where evaluation adapts: every batch; each evaluation of a split; or a sequence of
# them, one corruption of a split after the other (`jaxfer.robustness`), and an evaluation by itself.
EPISODIC, ONLINE, CONTINUAL = RESETS = ("episodic", "online", "continual")
EVERY = "*"  # in place of a stream's name: `{EVERY: TASK}`, every stream with a task, one at least


class SubStep(NamedTuple):
    """One of the updates that a step is made of, each with gradients at the parameters that the one before left.

    Attributes:
      name: `ctx.substep` in `Method.loss`.
      groups: whose parameters it moves; (): all. Moments of the others stay as they are.
    """

    name: str = ""
    groups: tuple[str, ...] = ()


class Taken(NamedTuple):
    """A step that was taken, as `update` sees it.

    Attributes:
      before: {path: trainable leaf} before the step.
      gradients: {path: leaf} of the whole batch, as the first call of `next` in `Method.gradient` gave them; of several
        sub-steps, the first one's.
      metrics: {name: [] float32} that the step logs.
    """

    before: Mapping[str, jax.Array]
    gradients: Mapping[str, jax.Array]
    metrics: Mapping[str, jax.Array]


class Streamed(NamedTuple):
    """A stream's part of the training forward.

    Attributes:
      outputs: of its own head where it has a task, else of the main one.
      taps: {name: activation}, as `Method.taps` asks.
    """

    outputs: jax.Array
    taps: Mapping[str, Any]


@dataclass(frozen=True)
class Context:
    """The inputs to a method's `loss` and `update`; `measure` sees the backbone's parameters, no extra and no hparams.

    Attributes:
      apply: backbone params -> outputs of this batch in evaluation mode, under the current running statistics; a
        second argument is another batch.
      task: the task; `task.loss(outputs, batch, hparams)` is a `Mean`.
      batch: this step's examples; those of the stream NAME are the dict `batch[NAME]`.
      taps: {name: activation} of the training forward, as `Method.taps` asks; {} in `update`.
      others: {name: `jaxfer.network.Network`} as `Method.others` names them, each callable on `batch`; {} in `measure`.
      params: the method's parameters, trainable and frozen (in `update`: after the step).
      extra: the method's state beside the parameters.
      hparams: {name: [] float32}.
      groups: {parameter path: group or FROZEN}.
      step: [] int32, steps done before this one.
      key: this step's PRNG key.
      streams: {name: its part of the training forward} of the streams that the method reads; {} in `update`.
      forward: backbone params -> the `Passed` of another pass over this batch, in evaluation mode. Keywords: `other`, a
        batch in its place; `model_state`, running statistics in place of the current ones; `intercept` and `taps`, as
        in `Port.forward`; `train`, for a training pass with dropout of its own (not in `measure`).
      taken: the step, in `update`; None elsewhere.
      model_state: running statistics before the step's pass, or the sub-step's, in `update` after it; None in
        `measure`.
      substep: the name of the sub-step that `loss` and `gradient` are of; "" in `update`, and of a step that is one.
    """

    apply: Callable[..., jax.Array]
    task: Task
    batch: Mapping[str, jax.Array]
    params: Params
    extra: Any
    hparams: Mapping[str, jax.Array]
    groups: Mapping[str, str]
    step: jax.Array
    key: jax.Array
    taps: Mapping[str, Any] = field(default_factory=dict)
    streams: Mapping[str, Streamed] = field(default_factory=dict)
    others: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    forward: Callable[..., Any] | None = None
    taken: Taken | None = None
    model_state: Any = None
    substep: str = ""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Given:
    """What a stage's `init` is given beside the backbone's parameters. Arrays alone, so it may be traced.

    Attributes:
      head: {path: leaf} of the source's own output layer, before `config.head` made a new one; None unless the method
        states `source_outputs`.
      measured: the mean of `Method.measure` over the training split, or what `Method.measured_as` makes of its rows;
        None without it.
      former: what the run before handed on, as `Method.former` states it; zeros where it had another method. None
        without that (of `Method.follows`, where there is one), and where `init` is asked for the shapes.
      model_state: running statistics that the stage starts from; None in `measure`.
    """

    head: Mapping[str, jax.Array] | None = None
    measured: Any = None
    former: Any = None
    model_state: Any = None


class Measured(NamedTuple):
    """What is made of the rows that `Method.measure` gives, where that is not their mean.

    Attributes:
      shapes: a tree of ShapeDtypeStructs, what `given.measured` is then.
      of: (rows: the tree of float32 [examples, ...] on the host, in the split's order) -> arrays of these shapes.
    """

    shapes: Any
    of: Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapting:
    """How evaluation adapts the network to the examples it reads, without labels, batch by batch in the split's order.

    Attributes:
      start: (backbone params as evaluation would use them) -> what is kept from batch to batch, arrays.
      step: (what is kept, those params, forward, batch) -> (the batch's outputs, what is kept then). `forward` is of
        backbone params, and of another batch if one is given: outputs under the statistics of that batch alone, with
        nothing dropped.
      reset: one of RESETS.
    """

    start: Callable[[Params], Any]
    step: Callable[..., tuple[jax.Array, Any]]
    reset: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """A pass over all training examples of a stream: before a stage's first step, and again at equal intervals.

    Attributes:
      stream: its name; examples are read as in evaluation, without augmentation.
      times: how many in a stage: one every `steps // times` steps, at least one step apart.
      rows: (ctx) -> a tree of [batch, ...] on the device, in evaluation mode; `ctx.batch` is a batch of the stream.
      kept: (rows, state) -> `extra` of the same shapes for the steps that follow, on the host; rows are a tree of
        [examples, ...], state is the State before the step. What it takes of the State must be a copy.
    """

    stream: str
    times: int
    rows: Callable[[Context], Any]
    kept: Callable[[Any, Any], Any]

    def due(self, done: int, steps: int) -> bool:
        """Whether there is one after so many steps of a stage of `steps`."""
        return done % max(1, steps // self.times) == 0


NOTHING = Given()
Gradients = Callable[..., tuple[Params, Any]]


def task_loss(ctx: Context, outputs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The task's mean loss over the batch, and nothing more to log."""
    return ctx.task.loss(outputs, ctx.batch, ctx.hparams).value(), {}


def without(name: str) -> Callable[[Mapping[str, Any], Any], dict[str, Any]]:
    """`view` of a method whose own parameters, `params[name]`, are beside the model's; `merge` too, if that is all."""
    return lambda params, extra: {unit: value for unit, value in params.items() if unit != name}


@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """A transfer method. Compared by identity, since compiled programs are shared between runs of one method.

    Attributes:
      rules: parameter path -> group or FROZEN; every group must hold at least one parameter.
      init: (params, key, given) -> (params, extra): adds leaves, keeps anchors. An added leaf names its unit in its
        path. `given` is what the fields below ask for.
      source_outputs: width of the source's output layer, where `init` needs that layer; the factory's option of this
        name, 0 until the source is known. Such a method goes first and starts from a classifier. None: not needed.
      measure: (ctx, given) -> a tree of [batch, ...]: a row of values for each example, in evaluation mode at the
        parameters the stage starts from. Their mean over the training split is `given.measured` of `init`. Computed
        once, before the stage's first step: what `init` keeps of it is in every checkpoint. With `source_outputs` these
        parameters, and `apply`, have the source's own head. None: nothing is measured.
      measured_as: what takes the place of the mean. All rows are held on the host for it. None: the mean.
      measured_rows: examples of that split at most, drawn by the run's seed; None: all of them.
      measure_on: `train`, or `former`: examples of the source's own task, labelled with its classes. Those are the
        training split's where the run keeps the source's head; where it makes a new one, the run is refused.
      former: (params, extra) at the end of a stage -> a tree that the next one of the same method is given: a later run
        that starts from this one, or the next stage. Its shapes depend on the shared parameters alone, not on a head.
        Where `merge` is None, this is what such a run goes on from beside the parameters that evaluation uses.
        None: nothing is handed on.
      follows: this method as the run before has it, where its options are others, so that what its `former` gives is
        of other shapes than what this one's does. None: it has the same options. The factory's option
        `source_columns`, where there is one, is found from `config.init`: one more than that of a run of the same
        method, else 1.
      former_of_head: whether that is of the head after all, so that a later run keeps the head, or is refused.
      view: (params, extra) -> backbone params as the forward pass uses them.
      noisy_view: (params, extra, key) -> the same for a training pass, where that draws at random; None: `view`.
      evaluated: (params, extra) -> the method's parameters that evaluation gives `view` and `intercept` in place of the
        trained ones, of the same shapes (averages of them). None: the trained ones.
      statistics: (model_state, extra) -> running statistics as evaluation, export and the next stage use them, of the
        same shapes.
      adapt: how evaluation adapts the network to what it reads; None: it doesn't. Predictions of single inputs and
        exports don't either.
      intercept: (params, extra) -> a `flax.linen` interceptor or None: changes in activation space.
      taps: activations of the training forward that `loss` needs: units, or `features` (`Port.forward`).
      streams: {name: UNLABELLED, SAME, PAIRS or TASK}: streams of the config that join the main batch in its forward
        pass, one pass with one set of batch statistics. `ctx.streams` has their outputs. A stream with a task joins it,
        and its loss is added, for every method. The name of an UNLABELLED stream in place of a kind: the examples of
        that one once more, augmented anew. {EVERY: TASK}: there must be one with a task, whatever its name.
      separate: whether these streams and the main batch each pass by themselves, one after the other, with batch
        statistics of their own, in place of one pass.
      weights: (params) -> {stream: weight of its loss, in place of the config's}: weights that are learned. None: the
        config's.
      passes: a pass over a stream's examples between steps, from which `extra` is made anew; None: there is none.
      main: whether the main batch passes through the network in training. Without it streams do alone: `outputs` of
        `loss` are None, there are no `ctx.taps`, and no scores are logged; its examples are in `ctx.batch` as always.
      batch: (ctx) -> the examples that this step trains on in place of `ctx.batch`: its fields, changed, and others,
        [batch, ...] each. Of the whole batch, before it is sliced, so not under pmap; evaluation reads examples as they
        are. Features of what it changes can't be stored. None: as they are read.
      loss: (ctx, outputs) -> (scalar, {name: scalar} to log).
      gradient: (next, ctx, trainable) -> (gradients, rest): `next` gives those of the whole batch at any {path: leaf}
        of the trainable parameters, and the rest, which is handed on; it may be called twice, and with other hparams
        as a second argument (`weight/NAME` is that of a stream's loss). The rest is ({metric: (value, number of parts
        that it is the mean of, or None)}, running statistics); metrics may be added.
      substeps: updates of which a step is made, one after the other, on the same batch and with the same rates, each
        with a pass, a call of `loss` and of `gradient` of its own. The step logs what each is the first to log; its
        `loss` and `grad_norm` are those of the first, which alone learns the streams' tasks; what an add-on puts into
        the loss is in each. (): the step is one update of all groups.
      update: (ctx, extra) -> extra of the same shapes after the step (queues, averages for the loss); under pmap its
        float leaves are averaged over the devices, each of which sees its own examples.
      merge: (params, extra) -> backbone params that alone give the adapted outputs, for export and the next stage; None
        where there are none, because the method changes the architecture. Nothing but a run of the same method then
        starts from such a run, and that where `former` hands on the rest.
      others: names of other networks that it reads (`teacher`), trained on the same task and classes, each named in
        `config.networks`: a run or a checkpoint, of any model that reads these data.
      tasks: names of the tasks that it can learn; empty: all.
      scales: {group: its rate as a multiple of `lr`}, 1 where absent; rates of `config.rates` are taken as they are.
      norms_alone: whether a stage trains nothing: running statistics alone follow its batches.
      whole_batch: whether the loss is of the batch as a whole and no mean over examples: then it can't be accumulated
        over slices or computed under pmap.
      by_examples: whether its loss is a mean over examples, whatever the task's counts (tokens, weights of classes):
        slices of a batch weigh alike then.
      decays: whether its loss has a pull of its own on all parameters; weight decay beside it, which pulls to zero, is
        noted.
      still_norms: whether the running statistics have to stand still, or the next stage has to count them anew: no
        batch was normalised by those of a network whose parameters are averages of many steps.
      factors: {group: factor of the product that its parameters are part of, alpha / rank say}, for `jaxfer show`.
      dropout: whether it compares passes that differ by dropout alone; a stage in which nothing is dropped is refused.
      fit: how the output layer, which alone is trained, is fitted at once to the features of all training examples;
        such a stage is one step, and reads neither rates nor `loss`. None: trained by steps.
      merging: how the networks in `others`, each of this model, become its parameters at once, likewise.
      hparams: {name: (default, tuning grid)}, scalars that `loss` and `update` read; `lr` is the rate where the config
        names none. What `view` and `intercept` need is an option of the factory.
      limits: {hparam: (least, most)} of what a config may set it to; one that is absent may be any finite number.
    """

    rules: Rules[str]
    init: Callable[[Params, jax.Array, Given], tuple[Params, Any]] = lambda params, key, given: (params, {})
    source_outputs: int | None = None
    measure: Callable[[Context, Given], Any] | None = None
    measured_as: Measured | None = None
    measured_rows: int | None = None
    measure_on: str = "train"
    former: Callable[[Params, Any], Any] | None = None
    follows: Method | None = None
    former_of_head: bool = False
    view: Callable[[Params, Any], Params] = lambda params, extra: params
    noisy_view: Callable[[Params, Any, jax.Array], Params] | None = None
    intercept: Callable[[Params, Any], Any] = lambda params, extra: None
    evaluated: Callable[[Params, Any], Params] | None = None
    statistics: Callable[[Any, Any], Any] = lambda model_state, extra: model_state
    adapt: Adapting | None = None
    taps: tuple[str, ...] = ()
    streams: Mapping[str, str] = field(default_factory=dict)
    separate: bool = False
    weights: Callable[[Params], Mapping[str, jax.Array]] | None = None
    passes: Pass | None = None
    main: bool = True
    batch: Callable[[Context], Mapping[str, Any]] | None = None
    loss: Callable[[Context, jax.Array], tuple[jax.Array, dict[str, jax.Array]]] = task_loss
    gradient: Callable[[Gradients, Context, Params], tuple[Params, Any]] = lambda next, ctx, trainable: next(trainable)
    substeps: tuple[SubStep, ...] = ()
    update: Callable[[Context, Any], Any] = lambda ctx, extra: extra
    merge: Callable[[Params, Any], Params] | None = lambda params, extra: params
    others: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    scales: Mapping[str, float] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    norms_alone: bool = False
    whole_batch: bool = False
    by_examples: bool = False
    decays: bool = False
    still_norms: bool = False
    dropout: bool = False
    fit: Fit | None = None
    merging: Merging | None = None
    hparams: Mapping[str, tuple[float, tuple[float, ...]]] = field(
        default_factory=lambda: {"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3))}
    )
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def seen(self, params: Params, extra: Any) -> tuple[Params, Any]:
        """(backbone params, interceptor or None) that evaluation sees of these parameters of the method."""
        at = params if self.evaluated is None else self.evaluated(params, extra)
        return self.view(at, extra), self.intercept(at, extra)

    @property
    def at_once(self) -> Fit | Merging | None:
        """What takes the place of the steps; None where there are steps."""
        return self.fit or self.merging
