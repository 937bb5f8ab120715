"""DER++: on examples of earlier tasks the outputs stay near what they were, beside the loss of their labels.

Buzzega et al., 2020, "Dark Experience for General Continual Learning: a Strong, Simple Baseline", arXiv:2004.07211,
eq. 6: loss + alpha * the mean square of (outputs - z) + beta * the loss of the memory's labels. z are the outputs of
the network that the stage starts from, under the memory's head as it is then: a frozen copy gives them, in evaluation
mode and on the same augmented examples. With the stream's weight at 0 no label is read: DER, eq. 5.

The paper draws a batch of memory for each of the two terms: so does `apart`, by a second stream, `dark`, of the same
examples without their labels. By default one batch serves both, which is a pass less. A memory is a fixed set of an
earlier task, several have the mean of their mean squares, and z are the outputs at the end of the task before: what a
memory filled at the boundary of two tasks holds, but for z of the augmented view in place of the stored one's. For
older tasks z come from that last network too, not from the network at the end of their own task.

Fixed memories are the default because a run is a task here: they need nothing of earlier runs but their data, and each
task may have classes and a head of its own.

With `reservoir` examples there are no streams, and the memory is the paper's, algorithm 2: it fills as examples come, a
step draws a batch for each term, and a run that starts from this one goes on with it. It holds examples of one head, so
all tasks have the same classes. As in the paper the network is not told which task an example is of. z are the outputs
of a training pass at the parameters of the example's own step, with a dropout of its own. An example is kept as the
network saw it, and is not augmented anew; drawn ones pass by themselves, and running statistics are those of the new
examples.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import TASK, UNLABELLED, Method, task_loss
from jaxfer.methods import _reservoir, er, full, mixup
from jaxfer.models import heads
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten, unflatten

DRAWS, FILLS = 11, 12  # streams of a step's key


def method(
    port: Port, *, memories: tuple[str, ...] = ("memory",), apart: bool = False, reservoir: int | None = None
) -> Method:
    """Groups: `head`, `backbone`. Hparam: `alpha`. Reads the streams `memories`, whose tasks have heads of their own.

    beta is `config.stream.NAME.weight`, of a reservoir the hparam `beta`. The head is the source's own where the stream
    is what the source, or a stream of the source's, was trained on; a new one has nothing to keep.

    Args:
      port: the model.
      memories: names of the streams, one for each earlier task.
      apart: whether the stream `dark`, of the memory's examples and without a task, gives the outputs that stay.
      reservoir: examples that the paper's memory holds, in place of `memories`.
    """
    if reservoir is not None:
        if reservoir < 1 or apart or memories != ("memory",):
            raise InputError(
                f"options.reservoir: expected at least 1, without memories and apart, found {reservoir}; it takes the "
                "place of the streams"
            )
        return _with_reservoir(port, reservoir)
    if apart and len(memories) > 1:
        raise InputError(f"options.apart: `dark` has the examples of one memory, found {memories}; remove apart")
    read = {name: "dark" if apart else name for name in memories}

    def init(params, key, given):
        return params, {"start": flatten(params), "norms": given.model_state}

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        start = ctx.extra["start"]
        old = ctx.forward(unflatten(start), other=together(ctx), model_state=ctx.extra["norms"], taps=(FEATURES,))
        counts = [len(ctx.streams[name].outputs) for name in memories]
        pieces = jnp.split(old.taps[FEATURES], list(itertools.accumulate(counts))[:-1])
        distances = []
        for name, before in zip(memories, pieces, strict=True):
            layer = below(name, start)
            if not layer or ctx.streams[name].outputs.ndim != 2:
                raise InputError(
                    f"der compares a row of outputs of each example; choose classification as the task of {name}"
                )
            now = ctx.streams[read[name]].outputs
            if apart:  # a stream without a task has the main head's
                now = heads.read(below(name, flatten(ctx.params)), ctx.streams[read[name]].taps[FEATURES])
            distances.append(jnp.square(now.astype(jnp.float32) - heads.read(layer, before)).mean())
        distance = sum(distances) / len(distances)
        return value + ctx.hparams["alpha"] * distance, {**logged, "dark": distance}

    def below(name, leaves):
        path = f"{port.head}/{name}/"
        return {each.removeprefix(path): leaf for each, leaf in leaves.items() if each.startswith(path)}

    def together(ctx):
        batches = [ctx.batch[read[name]] for name in memories]
        return {field: jnp.concatenate([batch[field] for batch in batches]) for field in port.inputs}

    return dataclasses.replace(
        er.method(port, memories=memories),
        init=init,
        streams={**dict.fromkeys(memories, TASK), **({"dark": UNLABELLED} if apart else {})},
        taps=(FEATURES,) if apart else (),
        loss=loss,
        hparams={"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)), "alpha": (0.5, (0.1, 0.2, 0.5))},
    )


def _with_reservoir(port: Port, size: int) -> Method:
    """The paper's algorithm 2."""

    def init(params, key, given):
        return params, {"memory": _reservoir.empty(port, size) if given.former is None else given.former}

    def check(batch):
        if mixup.PARTNER in batch:
            raise InputError("der with a reservoir keeps examples as they are; remove mixup from adds")
        fields = {name for name, x in batch.items() if not isinstance(x, Mapping)}
        if more := sorted(fields - {*port.inputs, "label"}):
            raise InputError(
                f"der with a reservoir keeps inputs and labels, and the task's loss also reads {', '.join(more)}; "
                "leave config.task.loss and config.task.class_weights out"
            )

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        memory, keys = ctx.extra["memory"], jax.random.split(jax.random.fold_in(ctx.key, DRAWS))
        begun = jnp.where(memory["seen"] > 0, 1.0, 0.0)
        check(ctx.batch)
        (first, before), (second, _) = (_reservoir.drawn(memory, key, ctx.batch) for key in keys)
        now, again = (ctx.forward(ctx.params, other=batch, train=True).outputs for batch in (first, second))
        distance = begun * jnp.square(now.astype(jnp.float32) - before).mean()
        old = begun * ctx.task.loss(again, second, ctx.hparams).value()
        value = value + ctx.hparams["alpha"] * distance + ctx.hparams["beta"] * old
        return value, {**logged, "dark": distance, "old": old}

    def update(ctx, extra):
        before = unflatten({**flatten(ctx.params), **ctx.taken.before})
        outputs = ctx.forward(before, train=True).outputs
        key = jax.random.fold_in(ctx.key, FILLS)
        return {"memory": _reservoir.filled(extra["memory"], key, ctx.batch, outputs)}

    return dataclasses.replace(
        full.method(port),
        init=init,
        loss=loss,
        update=update,
        former=lambda params, extra: extra["memory"],
        former_of_head=True,
        tasks=("classification",),
        whole_batch=True,
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "alpha": (0.5, (0.1, 0.2, 0.5)),
            "beta": (0.5, (0.5, 1.0)),
        },
    )
