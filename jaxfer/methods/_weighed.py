"""What `pcgrad`, `gradnorm` and `uncertainty` share: a main task and others, each a stream with a head of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import EVERY, TASK, WEIGHT, Context, Method, task_loss
from jaxfer.methods import full
from jaxfer.models.port import Port

MAIN = "main"  # the task of the main batch
OWN = f"{WEIGHT}/{MAIN}"  # the weight of its loss


class Alone(NamedTuple):
    """A task by itself: its loss, [] float32, and its gradients, {path: leaf}."""

    loss: jax.Array
    gradients: dict[str, jax.Array]


def weighed(port: Port, **fields: Any) -> Method:
    """`full` over the main task and every stream's, whose `loss` is weighed by `hparams[OWN]` where that is there."""

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        return ctx.hparams.get(OWN, 1.0) * value, logged

    return dataclasses.replace(full.method(port), streams={EVERY: TASK}, **{"loss": loss, **fields})


def tasks(port: Port) -> tuple[str, ...]:
    """MAIN and the streams with a task; `InputError` where one is called so."""
    names = tuple(model.part.name for model in port.parts)
    if MAIN in names:
        raise InputError(f"config.stream.{MAIN}: this is the name of the main task; rename the stream")
    return MAIN, *names


def trained(ctx: Context) -> tuple[str, ...]:
    """Those of them that this step trains on: a stream of weight 0 is only evaluated."""
    return MAIN, *sorted(name for name in ctx.batch if f"{WEIGHT}/{name}" in ctx.hparams)


def alone(
    next: Callable[..., Any], ctx: Context, trainable: Mapping[str, Any], weights: Mapping[str, Any] | None = None
) -> tuple[dict[str, Alone], Any]:
    """({task: what it gives by itself, times its weight}, the rest of a step, whose loss is the sum).

    Weights are the config's where none are given, and that of the main task is 1. There is a call of `next` for each
    task; what an add-on puts into the loss is in all of them.
    """
    weights = {
        OWN: jnp.float32(1),
        **ctx.hparams,
        **{f"{WEIGHT}/{task}": weight for task, weight in (weights or {}).items()},
    }
    found, rests = {}, {}
    for task in trained(ctx):
        others = {f"{WEIGHT}/{name}": jnp.float32(0) for name in trained(ctx) if name != task}
        given = {**weights, **others}
        gradients, rests[task] = next(trainable, given)
        found[task] = Alone(rests[task][0]["loss"][0], gradients)
    metrics, model_state = rests[MAIN]
    whole = sum(each.loss for each in found.values())
    return found, ({**metrics, "loss": (whole, metrics["loss"][1])}, model_state)
