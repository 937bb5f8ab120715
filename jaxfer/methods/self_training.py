"""Self-training: the model learns the classes that it gives to unlabelled examples itself, or that its average gives.

Lee, 2013, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks" (ICML
workshop), eqs. 15 and 16: loss + weight * rise * the mean over all unlabelled examples of CE(outputs, the most likely
class), with rise 0 before `ramp_start`, 1 after `ramp_end` and linear between; the paper counts epochs, here they are
shares of the stage's steps. The class is what the current network gives in evaluation mode on the same augmented
example, without a gradient. The paper counts every example; a `threshold` above 0 leaves out those whose largest chance
is below it, which divide the sum all the same, as in `fixmatch`.

With teacher="ema" an average of the parameters gives the classes: that of mean teacher (Tarvainen and Valpola, 2017,
arXiv:1703.01780, eq. 1), with decay min(`teacher_decay`, 1 - 1 / (1 + step)), under the model's own running statistics.
Its paper's cost is another one, `consistency` (section 2): loss + weight * rise * the mean of |p - p'|^2, p being the
model's softmax of an example and p' the average's of the same one augmented anew, in a training pass with a dropout of
its own. No class is chosen and every example counts. As in the paper no gradient goes through p'; unlike there the cost
is of the target alone, and the weight rises as above. The authors' code divides it by the number of classes. The view
passes through the model too, as every stream does; of that pass only batch statistics are used.

With `balanced`, of each class that is given, the `portion` of the batch's examples that are surest count (Zou et al.,
2018, arXiv:1810.07911, where the portion is of the whole target).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import InputError
from jaxfer.method import UNLABELLED, Method, task_loss
from jaxfer.methods import _domains
from jaxfer.models.port import Port
from jaxfer.rules import flatten, unflatten

TEACHERS = ("current", "ema")


def method(
    port: Port,
    *,
    teacher: str = "current",
    consistency: bool | None = None,
    balanced: bool = False,
    norms: str = "joint",
) -> Method:
    """Groups: `head`, `backbone`. Reads the stream `target`; with `consistency` also `view`, the same source again.

    Args:
      port: the model.
      teacher: what gives the classes: the `current` network, or its average, `ema`.
      consistency: whether the loss is mean teacher's, the squared distance to what the average says of another view of
        an example; None: the cross-entropy with the classes.
      balanced: whether each class has a threshold of its own.
      norms: as in `_domains`: `joint` or `separate`.

    Hparams: `weight`; `ramp_start` and `ramp_end`, shares of the stage's steps; where classes are given `threshold`, or
    `portion` if it is balanced; `teacher_decay` of the average.
    """
    if teacher not in TEACHERS:
        raise InputError(f"options.teacher: expected {' or '.join(TEACHERS)}, found {teacher!r}")
    average = teacher == "ema"
    if consistency and (balanced or not average):
        found = f"teacher={teacher}, balanced={balanced}"
        raise InputError(f"options.consistency: expected teacher=ema without balanced, found {found}")

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        judge = unflatten(ctx.extra["teacher"]) if average else ctx.params
        given = jax.lax.stop_gradient(ctx.apply(judge, ctx.batch["target"])).astype(jnp.float32)
        chances, classes = jax.nn.softmax(given).max(-1), given.argmax(-1)
        counts = surest(chances, classes, ctx.hparams["portion"]) if balanced else chances >= ctx.hparams["threshold"]
        own = ctx.streams["target"].outputs.astype(jnp.float32)
        pseudo = (counts * optax.softmax_cross_entropy_with_integer_labels(own, classes)).mean()
        weight = ctx.hparams["weight"] * risen(ctx)
        return value + weight * pseudo, {**logged, "pseudo_loss": pseudo, "sure": counts.astype(jnp.float32).mean()}

    def consistent(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        judge = unflatten(jax.lax.stop_gradient(ctx.extra["teacher"]))
        other = ctx.forward(judge, other=ctx.batch["view"], train=True).outputs
        apart = distance(ctx.streams["target"].outputs, jax.lax.stop_gradient(other))
        return value + ctx.hparams["weight"] * risen(ctx) * apart, {**logged, "consistency": apart}

    def update(ctx, extra):
        decay, now = jnp.minimum(ctx.hparams["teacher_decay"], 1 - 1 / (1.0 + ctx.step)), flatten(ctx.params)
        return {"teacher": {path: decay * x + (1 - decay) * now[path] for path, x in extra["teacher"].items()}}

    sure = {} if consistency else {"portion": (0.5, (0.2, 0.5))} if balanced else {"threshold": (0.0, (0.0, 0.8, 0.95))}
    kept = {"teacher_decay": (0.999, (0.99, 0.999))} if average else {}
    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        init=lambda params, key, given: (params, {"teacher": flatten(params)} if average else {}),
        streams={"target": UNLABELLED, "view": "target"} if consistency else _domains.STREAMS,
        separate=_domains.apart(norms),
        loss=consistent if consistency else loss,
        update=update if average else lambda ctx, extra: extra,
        tasks=("classification",),
        whole_batch=balanced,
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "weight": (3.0, (0.3, 1.0, 3.0)),
            "ramp_start": (0.1, (0.1,)),
            "ramp_end": (0.6, (0.6,)),
            **sure,
            **kept,
        },
        limits=dict.fromkeys(("ramp_start", "ramp_end", *sure, *kept), (0.0, 1.0)),
    )


def risen(ctx) -> jax.Array:
    """How much of the weight counts at this step: eq. 16."""
    begin, end = ctx.hparams["ramp_start"], ctx.hparams["ramp_end"]
    progress = ctx.step / ctx.hparams["total_steps"]
    return jnp.where(progress >= end, 1.0, jnp.clip((progress - begin) / jnp.maximum(end - begin, 1e-6), 0.0, 1.0))


def distance(first: jax.Array, second: jax.Array) -> jax.Array:
    """[]: the mean over examples of |p - p'|^2, of logits [batch, classes] of two networks."""
    chances = (jax.nn.softmax(x.astype(jnp.float32)) for x in (first, second))
    return jnp.square(jnp.subtract(*chances)).sum(-1).mean()


def surest(chances: jax.Array, classes: jax.Array, portion: jax.Array | float) -> jax.Array:
    """[n] bool: of each class that is given, this portion of its examples, the surest first, and at least one."""
    same = classes[:, None] == classes[None, :]
    ahead = (same & (chances[None, :] > chances[:, None])).sum(1)
    return ahead < jnp.maximum(portion * same.sum(1), 1)
