"""GradNorm: tasks are weighed so that their gradients are of like length, longer for those that train slower.

Chen et al., 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks",
arXiv:1711.02257, eqs. 1 and 2 and Algorithm 1: of the gradients G_i of w_i * loss_i at the last layer that the tasks
share, the weights follow the gradient of the sum of | |G_i| - mean |G| * r_i^alpha |, in which the second term is a
constant and r_i is loss_i / (loss_i at the first step), over its mean. After each step they are scaled to a sum of as
many as there are tasks. The network's step is taken with the weights from before. The weights have a rate of their own
and are kept from falling below 0. They take plain gradient steps or Adam's (`adam`); the paper leaves the rule open. A
step costs a forward and a backward pass for each task.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.methods._weighed import alone, tasks, trained, weighed
from jaxfer.models.port import Port

MOMENTS = ("mean", "square")  # of the slopes, for Adam


def method(port: Port, *, layer: str = "", adam: bool = False) -> Method:
    """Groups: `head`, `backbone`. Hparams: `alpha`, `weight_rate` (the weights'). Reads every stream with a task.

    The weight of a stream in the config only has to be above 0: what is learned takes its place.

    Args:
      port: the model.
      layer: the last unit that the tasks share, whose gradients are compared; empty: the last one with a kernel.
      adam: whether the weights' steps are Adam's.
    """
    rule = optax.scale_by_adam()

    def init(params, key, given):
        if layer and layer not in port.units:
            raise InputError(f"config.options.layer: expected one of {', '.join(port.units)}, found {layer!r}")
        kept = {name: {task: jnp.ones(()) for task in tasks(port)} for name in ("weights", "first")}
        return params, kept | {name: {task: jnp.zeros(()) for task in tasks(port)} for name in MOMENTS if adam}

    def shared(trainable):
        """Paths of the layer's parameters that train; none is a head's."""
        below = [path for path in trainable if not path.startswith(f"{port.head}/")]
        kernels = {port.unit(path) for path in below if path.endswith("/kernel")}
        chosen = layer or max(kernels, key=port.units.index, default="the backbone")
        if not (found := [path for path in below if port.unit(path) == chosen]):
            raise InputError(
                f"gradnorm: nothing that the tasks share trains in {chosen}; choose another unit in options.layer"
            )
        return found

    def gradient(next, ctx, trainable):
        found, (metrics, model_state) = alone(next, ctx, trainable, dict.fromkeys(trained(ctx), jnp.float32(1)))
        layer, weights = shared(trainable), ctx.extra["weights"]
        logged = {"loss": (sum(weights[task] * each.loss for task, each in found.items()), metrics["loss"][1])}
        for task, each in found.items():
            norm = optax.tree.norm({path: each.gradients[path] for path in layer})
            logged |= {f"{name}/{task}": (x, None) for name, x in (("loss", each.loss), ("norm", norm))}
            logged[f"weight/{task}"] = weights[task], None
        whole = {path: sum(weights[task] * each.gradients[path] for task, each in found.items()) for path in trainable}
        return whole, ({**metrics, **logged}, model_state)

    def update(ctx, extra):
        names, metrics = trained(ctx), ctx.taken.metrics
        losses, norms = (jnp.stack([metrics[f"{kind}/{task}"] for task in names]) for kind in ("loss", "norm"))
        kept = {kind: jnp.stack([extra[kind][task] for task in names]) for kind in extra}
        first = jnp.where(ctx.step == 0, losses, kept["first"])
        slope, moments = pull(kept["weights"], norms, losses / first, ctx.hparams["alpha"]), {}
        if adam:
            before = optax.ScaleByAdamState(ctx.step, *(kept[name] for name in MOMENTS))
            slope, (_, *after) = rule.update(slope, before)
            moments = dict(zip(MOMENTS, after, strict=True))
        weights = scaled(kept["weights"] - ctx.hparams["weight_rate"] * slope)
        now = {"weights": weights, "first": first, **moments}
        return {kind: {**extra[kind], **dict(zip(names, now[kind], strict=True))} for kind in now}

    return weighed(
        port,
        init=init,
        gradient=gradient,
        update=update,
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "alpha": (1.5, (0.5, 1.5, 3.0)),
            "weight_rate": (0.025, (0.0025, 0.025)),
        },
        limits={"weight_rate": (0.0, float("inf"))},
    )


def pull(weights: jax.Array, norms: jax.Array, ratios: jax.Array, alpha: jax.Array) -> jax.Array:
    """[n]: the slope in each weight of the sum of | |G_i| - mean |G| * r_i^alpha |, eq. 2.

    Args:
      weights: [n], before the step.
      norms: [n], of the gradients of the losses without their weights.
      ratios: [n], losses as a share of what they were at the first step.
      alpha: how much more tasks count that train slower.
    """
    found = weights * norms
    wanted = found.mean() * (ratios / ratios.mean()) ** alpha
    return jnp.sign(found - wanted) * norms


def scaled(weights: jax.Array) -> jax.Array:
    """[n]: none below 0, and a sum of n."""
    weights = jnp.maximum(weights, 0)
    return weights * len(weights) / weights.sum()
