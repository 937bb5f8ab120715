"""DER++: on examples of an earlier task the outputs stay near what they were, beside the loss of their labels.

Buzzega et al., 2020, "Dark Experience for General Continual Learning: a Strong, Simple Baseline", arXiv:2004.07211,
eq. 6: loss + alpha * the mean square of (outputs - z) + beta * the loss of the memory's labels. z are the outputs of
the network that the stage starts from, under the memory's head as it is then: a frozen copy gives them, in evaluation
mode and on the same augmented examples. In the paper a reservoir keeps the outputs of the step in which an example was
seen, and each of the two terms has a batch of its own. With the stream's weight at 0 no label is read: DER, eq. 5.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method, task_loss
from jaxfer.methods import er
from jaxfer.models import heads
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten, unflatten


def method(port: Port) -> Method:
    """Groups: `head`, `backbone`. Hparam: `alpha`. Reads the stream `memory`, whose task has a head of its own.

    beta is `config.stream.memory.weight`. The head is the source's own where the stream is what the source was trained
    on; a new one has nothing to keep.
    """

    def init(params, key, given):
        return params, {"start": flatten(params), "norms": given.model_state}

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        start, below = ctx.extra["start"], f"{port.head}/memory/"
        layer = {path.removeprefix(below): leaf for path, leaf in start.items() if path.startswith(below)}
        now = ctx.streams["memory"].outputs
        if not layer or now.ndim != 2:
            raise InputError("der compares a row of outputs of each example; choose classification as memory's task")
        old = ctx.forward(
            unflatten(start), other=ctx.batch["memory"], model_state=ctx.extra["norms"], taps=(FEATURES,)
        ).taps[FEATURES]
        apart = jnp.square(now.astype(jnp.float32) - heads.read(layer, old)).mean()
        return value + ctx.hparams["alpha"] * apart, {**logged, "dark": apart}

    return dataclasses.replace(
        er.method(port),
        init=init,
        loss=loss,
        hparams={"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)), "alpha": (0.5, (0.1, 0.2, 0.5))},
    )
