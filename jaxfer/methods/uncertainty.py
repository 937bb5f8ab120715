"""Uncertainty weighting: how much each of several tasks counts is learned, as the noise of its observations.

Kendall, Gal and Cipolla, 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
Semantics", arXiv:1705.07115, eqs. 7 and 10: the sum over tasks of exp(-s) * loss + s / 2, s = log sigma^2 being learned
from 0; a squared error has the factor 1/2 besides. As in the paper s is trained, not sigma. For a fixed
loss the best s gives the weight 1 / (2 loss) with or without that factor.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method, task_loss, without
from jaxfer.methods._weighed import MAIN, OWN, tasks, trained, weighed
from jaxfer.models.port import Port
from jaxfer.rules import unflatten


def method(port: Port, *, regression: tuple[str, ...] = ()) -> Method:
    """Groups: `noise` (s of each task), `head`, `backbone`. Reads every stream with a task.

    The weight of a stream in the config only has to be above 0: what is learned takes its place.

    Args:
      port: the model.
      regression: tasks whose loss is a squared error: `main`, or streams.
    """

    def init(params, key, given):
        for name in regression:
            if name not in tasks(port):
                raise InputError(
                    f"config.options.regression: expected names of {', '.join(tasks(port))}, found {name!r}; choose "
                    "among these"
                )
        # A leaf called `scale` has no weight decay, which would pull each sigma to 1.
        noise = unflatten({f"{port.head}/{task}/scale": jnp.zeros(()) for task in tasks(port)})
        return {**params, "uncertainty": noise}, {}

    def noise(params, task):
        leaf = params["uncertainty"]
        for name in (*port.head.split("/"), task, "scale"):
            leaf = leaf[name]
        return leaf

    def weight(params, task):
        return jnp.exp(-noise(params, task)) * (0.5 if task in regression else 1.0)

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        learned = {f"weight/{task}": weight(ctx.params, task) for task in trained(ctx)}
        length = sum(noise(ctx.params, task) for task in trained(ctx)) / 2
        return learned[OWN] * value + length, {**logged, **learned}

    return weighed(
        port,
        rules=(("uncertainty/.*", "noise"), (f"{port.head}/.*", "head"), (".*", "backbone")),
        init=init,
        view=without("uncertainty"),
        merge=without("uncertainty"),
        weights=lambda params: {task: weight(params, task) for task in tasks(port) if task != MAIN},
        loss=loss,
    )
