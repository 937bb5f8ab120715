"""DER++: on examples of an earlier task the outputs stay near what they were, beside the loss of their labels.

Buzzega et al., 2020, "Dark Experience for General Continual Learning: a Strong, Simple Baseline", arXiv:2004.07211,
eq. 6: loss + alpha * the mean square of (outputs - z) + beta * the loss of the memory's labels. z are the outputs of
the network that the stage starts from, under the memory's head as it is then: a frozen copy gives them, in evaluation
mode and on the same augmented examples. With the stream's weight at 0 no label is read: DER, eq. 5.

The paper draws a batch of memory for each of the two terms: so does `apart`, by a second stream, `dark`, of the same
examples without their labels. By default one batch serves both, which is a pass less. The paper fills its memory as
examples come, by a reservoir that keeps each with the outputs of the step in which it was seen. Here the memory is a
fixed set of the earlier task, and z are the outputs at that task's end: what a memory filled at the boundary of two
tasks holds, but for z of the augmented view in place of the stored one's.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import TASK, UNLABELLED, Method, task_loss
from jaxfer.methods import er
from jaxfer.models import heads
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten, unflatten


def method(port: Port, *, apart: bool = False) -> Method:
    """Groups: `head`, `backbone`. Hparam: `alpha`. Reads the stream `memory`, whose task has a head of its own.

    beta is `config.stream.memory.weight`. The head is the source's own where the stream is what the source was trained
    on; a new one has nothing to keep.

    Args:
      port: the model.
      apart: whether the stream `dark`, of the memory's examples and without a task, gives the outputs that stay.
    """
    read = "dark" if apart else "memory"

    def init(params, key, given):
        return params, {"start": flatten(params), "norms": given.model_state}

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        start, below = ctx.extra["start"], f"{port.head}/memory/"
        layer = {path.removeprefix(below): leaf for path, leaf in start.items() if path.startswith(below)}
        if not layer or ctx.streams["memory"].outputs.ndim != 2:
            raise InputError("der compares a row of outputs of each example; choose classification as memory's task")
        now = ctx.streams[read].outputs
        if apart:  # a stream without a task has the main head's
            own = {path.removeprefix(below): x for path, x in flatten(ctx.params).items() if path.startswith(below)}
            now = heads.read(own, ctx.streams[read].taps[FEATURES])
        old = ctx.forward(
            unflatten(start), other=ctx.batch[read], model_state=ctx.extra["norms"], taps=(FEATURES,)
        ).taps[FEATURES]
        distance = jnp.square(now.astype(jnp.float32) - heads.read(layer, old)).mean()
        return value + ctx.hparams["alpha"] * distance, {**logged, "dark": distance}

    return dataclasses.replace(
        er.method(port),
        init=init,
        streams={"memory": TASK, **({"dark": UNLABELLED} if apart else {})},
        taps=(FEATURES,) if apart else (),
        loss=loss,
        hparams={"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)), "alpha": (0.5, (0.1, 0.2, 0.5))},
    )
