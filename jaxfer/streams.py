"""Streams of a step: examples beside the main batch, in its forward pass or after it.

A stream joins the main batch in one pass, so that batch statistics are of both, in training and in what evaluation
keeps of them; where the method says so, each passes by itself, and running statistics follow in turn. A stream with a
task has a head of its own, and its loss is added. It has a pass of its own where one of the two tasks reads pairs of
texts apart and the other does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxfer.config.experiment import Experiment, StageConfig, StreamConfig
from jaxfer.data.order import numbered
from jaxfer.errors import InputError
from jaxfer.method import EVERY, PAIRS, SAME, STREAM_KINDS, TASK, UNLABELLED, WEIGHT, Method, Streamed
from jaxfer.models.port import Passed, Port
from jaxfer.registry import TASKS
from jaxfer.task import Mean, Task

Batch = Mapping[str, Any]
MAIN = ""  # the main batch, among streams


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """The static part of a stream in a stage's steps.

    Attributes:
      name: in the config, and in the batch.
      batch_size: examples per step, over all devices.
      joined: whether it joins the main batch in its pass.
      trained: whether its examples are part of a step; else it is only evaluated.
      task: that it trains; None: only the method reads it.
      port: the model with the stream's own head; None without a task.
      follows: the stream whose examples these are once more; empty: none.
      pairs: whether they are partners of the main batch's, with their classes.
    """

    name: str
    batch_size: int
    joined: bool
    trained: bool = True
    task: Task | None = None
    port: Port | None = None
    follows: str = ""
    pairs: bool = False

    def hparams(self, hparams: Mapping[str, Any]) -> dict[str, Any]:
        """The hparams of its task, by the task's names."""
        return {name: hparams[f"{self.name}/{name}"] for name in (self.task.hparams or {})}

    def shapes(self, port: Port) -> dict[str, Any]:
        """Shapes of its part of a batch."""
        fields = (self.port or port).example(self.batch_size)
        if self.task is None:
            return {**fields, "label": jax.ShapeDtypeStruct((self.batch_size,), "int32")} if self.pairs else fields
        return {**fields, **self.task.shapes(self.batch_size, self.port.outputs, fields)}


def forward(
    port: Port,
    streams: Sequence[StreamSpec],
    params: Any,
    model_state: Any,
    batch: Batch,
    *,
    taps: Sequence[str],
    main: bool = True,
    separate: bool = False,
    **how,
) -> tuple[Passed, dict[str, Streamed]]:
    """The training forward of the main batch with the streams that join it, then of the others.

    Args:
      port: the model.
      streams: of the stage.
      params: as the method's `view` gives them.
      model_state: running statistics; the passes update them in turn.
      batch: the main stream's fields, and a dict for each other stream.
      taps: as `Method.taps`.
      main: as `Method.main`.
      separate: as `Method.separate`.
      how: `training` and `intercept` of `Port.forward`.

    Returns:
      (the main batch's, {name: each stream's}); where that does not pass, outputs of None and no taps.
    """
    streams = [stream for stream in streams if stream.trained]
    joined = [stream for stream in streams if stream.joined]
    *_, before, head = port.units
    own_head = any(stream.task is not None for stream in joined)
    asked = dict.fromkeys((*taps, *((before,) if own_head else ())))
    if not streams:
        return port.forward(params, model_state, batch, taps=tuple(taps), **how), {}
    read = {**({MAIN: batch} if main else {}), **{s.name: batch[s.name] for s in joined}}
    pieces, shown = {}, {}
    for names in [[name] for name in read] if separate else [list(read)]:
        together = {name: jnp.concatenate([read[own][name] for own in names]) for name in port.inputs}
        training = how["training"]
        if separate and names != [MAIN]:
            training = dataclasses.replace(training, key=_key(training.key, names[0]))
        passed = port.forward(params, model_state, together, taps=tuple(asked), **{**how, "training": training})
        model_state = passed.model_state
        sizes = [read[own][port.inputs[0]].shape[0] for own in names]
        pieces |= zip(names, _pieces((passed.outputs, passed.taps), sizes), strict=True)
    for stream in joined:
        outputs, kept = pieces[stream.name]
        if stream.task is not None:
            fields = {**batch[stream.name], port.inputs[0]: kept[before]}
            outputs = stream.port.forward(params, model_state, fields, begin=head, **how).outputs
            outputs = outputs.reshape(-1, 2, outputs.shape[-1]) if stream.port.apart else outputs
        shown[stream.name] = Streamed(outputs, {name: kept[name] for name in taps})
    for stream in (stream for stream in streams if not stream.joined):
        training = dataclasses.replace(how["training"], key=_key(how["training"].key, stream.name))
        own = stream.port.forward(params, model_state, batch[stream.name], **{**how, "training": training})
        model_state = own.model_state
        shown[stream.name] = Streamed(own.outputs, {})
    if not main:
        return Passed(None, model_state, {}), shown
    outputs, kept = pieces[MAIN]
    return Passed(outputs, model_state, {name: kept[name] for name in taps}), shown


def losses(
    streams: Sequence[StreamSpec], shown: Mapping[str, Streamed], batch: Batch, hparams: Mapping[str, jax.Array]
) -> tuple[jax.Array | float, dict[str, Mean]]:
    """(the weighted sum of the streams' losses, {`NAME/metric`: mean})."""
    total, scores = 0.0, {}
    for stream in (stream for stream in streams if stream.trained and stream.task is not None):
        outputs, fields = shown[stream.name].outputs, batch[stream.name]
        loss = stream.task.loss(outputs, fields, stream.hparams(hparams)).value()
        total = total + hparams[f"{WEIGHT}/{stream.name}"] * loss
        scores |= {f"{stream.name}/{name}": mean for name, mean in stream.task.scores(outputs, fields).items()}
    return total, scores


def check_slices(main: Mean | None, others: Mapping[str, Mean]) -> None:
    """`InputError` if losses of slices can't be put together: one counts parts of an example, beside another.

    Args:
      main: the main loss; None where the method brings it.
      others: {stream: its loss}; scores of other names are passed over.
    """
    own = {name.removesuffix("/loss"): mean for name, mean in others.items() if name.endswith("/loss")}
    counted = [name for name in sorted(own) if own[name].count is not None]
    if own and (counted or (main is not None and main.count is not None)):
        name, whose = (counted[0], "its") if counted else (min(own), "the main")
        raise InputError(
            f"config.stream.{name}: {whose} loss counts parts of an example (tokens, pixels), which slices of a batch "
            "or pmap would weigh wrongly beside another loss; set config.accumulate=1 and parallel.mode=jit"
        )


def _pieces(tree: Any, counts: Sequence[int]) -> list[Any]:
    """The trees of each stream's rows; of pairs read apart, an example has two rows."""
    whole, pieces, begin = sum(counts), [], 0
    for count in counts:

        def rows(x: jax.Array, begin: int = begin, count: int = count) -> jax.Array:
            each = x.shape[0] // whole
            return x[begin * each : (begin + count) * each]

        pieces.append(jax.tree.map(rows, tree))
        begin += count
    return pieces


def _key(key: jax.Array, name: str) -> jax.Array:
    return jax.random.fold_in(key, numbered(name))


def stream_specs(
    experiment: Experiment, config: StageConfig, method: Method, port: Port, where: str
) -> tuple[StreamSpec, ...]:
    """The streams that a stage reads: those with a task, and those that its method asks for.

    Raises:
      InputError: the config lacks one that the method asks for, or has another kind of it.
    """
    known, own = dict(experiment.streams), {model.part.name: model for model in port.parts}
    named = {name: kind for name, kind in method.streams.items() if name != EVERY}
    followed = {name: kind for name, kind in named.items() if kind not in STREAM_KINDS}
    if EVERY in method.streams and not any(stream.task and stream.weight > 0 for stream in known.values()):
        raise InputError(
            f"{where}.method: {config.method!r} trains on several tasks, and the config has one; add "
            "config.stream.NAME=dict(source=..., task=...)"
        )
    for name, kind in named.items():
        _check_kind(config.method, name, UNLABELLED if name in followed else kind, known.get(name), where)
        if name in followed:
            _check_followed(config.method, name, kind, known)
    specs = []
    for name, stream in known.items():
        joined = name in named
        if not (stream.task or joined):
            continue
        if joined and name in own and own[name].apart != port.apart:
            raise InputError(f"config.stream.{name}.task: it reads pairs as the main task does not; choose another")
        specs.append(
            StreamSpec(
                name=name,
                batch_size=stream.batch_size or config.batch_size,
                joined=joined or (stream.weight > 0 and own[name].apart == port.apart),
                trained=joined or stream.weight > 0,
                task=TASKS.make(stream.task) if stream.task else None,
                port=own.get(name),
                follows=followed.get(name, ""),
                pairs=named.get(name) == PAIRS,
            )
        )
    return tuple(specs)


def stream_hparams(experiment: Experiment, streams: Sequence[StreamSpec]) -> dict[str, float]:
    """{`weight/NAME`: of its loss, `NAME/hparam`: of its task}."""
    known = dict(experiment.streams)
    hparams: dict[str, float] = {}
    for stream in (stream for stream in streams if stream.task is not None):
        hparams[f"{WEIGHT}/{stream.name}"] = known[stream.name].weight
        hparams |= {f"{stream.name}/{name}": value for name, value in (stream.task.hparams or {}).items()}
    return hparams


def _check_kind(method: str, name: str, kind: str, stream: StreamConfig | None, where: str) -> None:
    section = f"config.stream.{name}"
    if stream is None:
        example = {UNLABELLED: "source=...", TASK: "source=..., task=..."}.get(kind, f"rows={kind!r}")
        raise InputError(f"{where}.method: {method!r} reads the stream {name!r}; add {section}=dict({example})")
    if kind == TASK and not stream.task:
        raise InputError(f"{section}.task: method {method!r} trains on its labels; name the task, found none")
    if kind != TASK and stream.task:
        raise InputError(
            f"{section}.task={stream.task}: method {method!r} reads inputs alone, and labels would leak into it; "
            "remove it"
        )
    wanted = kind if kind in (SAME, PAIRS) else "own"
    if stream.rows != wanted:
        raise InputError(f"{section}.rows: method {method!r} reads rows='{wanted}', found {stream.rows!r}")


def _check_followed(method: str, name: str, other: str, known: Mapping[str, StreamConfig]) -> None:
    mine, theirs = known[name], known[other]
    plain = [dataclasses.replace(stream.data, augment=()) for stream in (mine, theirs)]
    if (mine.source, mine.batch_size, plain[0]) != (theirs.source, theirs.batch_size, plain[1]):
        raise InputError(
            f"config.stream.{name}: method {method!r} reads the examples of config.stream.{other} here once more; make "
            "the two alike but for augment"
        )
