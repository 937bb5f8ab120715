"""Feature distillation: the model's features, through a learned linear map, come close to a trained teacher's.

Romero et al., 2015, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550, eq. 3:
task_weight * loss + weight * the mean of the squares of (map(features) - the teacher's). Eq. 3 has half their sum, and
the paper's map is a convolution with the teacher's nonlinearity. The teacher sees the same examples, augmented alike,
and computes as in evaluation.

By default both terms are learned in one stage. The paper has two (section 2.3): the layers up to the hint learn the
hint alone, then the whole network learns labels and the teacher's outputs (eq. 2, the method `distill`). So do

    config.stages = ("hint", "distill")
    config.networks.teacher = "run:runs/teacher"
    config.stage.hint = dict(
        method="feature_distill", options=dict(layer="block_5", task_weight=0.0), weight_decay=0.0
    )
    config.stage.distill = dict(method="distill")

In the first stage nothing above `layer` has a gradient, and without weight decay it stays as it is.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxfer.errors import InputError, nearest
from jaxfer.method import Method, task_loss, without
from jaxfer.methods import _dense
from jaxfer.models.port import FEATURES, Port


def method(port: Port, *, layer: str = FEATURES, teacher_layer: str = "", width: int = 0) -> Method:
    """Groups: `head`, `projection` (the map), `backbone`. Hparams: `weight` of the hint, `task_weight` of the loss.
    Network: `config.networks.teacher`.

    Args:
      port: the model.
      layer: a unit of the model, for what it gives, or `features`, what its output layer reads.
      teacher_layer: likewise of the teacher; empty: of the same name.
      width: channels of the teacher's; 0: as many as the model's.
    """
    known = (*port.units[:-1], FEATURES)
    if layer not in known:
        near = nearest(layer, known)
        raise InputError(f"options.layer: {layer!r} is neither a unit before the head nor 'features'{near}")
    if width < 0:
        raise InputError(f"options.width: expected at least 0, found {width}")
    unit = port.units[-1] if layer == FEATURES else layer

    def init(params, key, given):
        following = port.units[port.units.index(unit) + 1] if layer != FEATURES else None
        shape = port.features if layer == FEATURES else getattr(port.passed(following), "shape", None)
        if shape is None:
            raise InputError(f"options.layer: unit {layer!r} gives several arrays; choose another")
        stack = _dense.drawn(key, [shape[-1], width or shape[-1]])
        return {**params, "projection": {unit: stack}}, {}

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        name = teacher_layer or layer
        taught = ctx.others["teacher"](ctx.batch, taps=(name,)).taps[name]
        mapped = _dense.through(ctx.params["projection"][unit], ctx.taps[layer].astype(jnp.float32))
        shape = getattr(taught, "shape", ())
        if mapped.shape != shape:
            raise InputError(
                f"feature_distill: the teacher's {name} is {list(shape[1:])}, the model's {layer} is mapped to "
                f"{list(mapped.shape[1:])}; set options.width to the teacher's channels, and choose layers of one size"
            )
        apart = jnp.square(mapped - taught.astype(jnp.float32)).mean()
        return ctx.hparams["task_weight"] * value + ctx.hparams["weight"] * apart, {**logged, "hint": apart}

    return Method(
        rules=((f"{port.head}/.*", "head"), ("projection/.*", "projection"), (".*", "backbone")),
        init=init,
        view=without("projection"),
        merge=without("projection"),
        taps=(layer,),
        others=("teacher",),
        loss=loss,
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "weight": (1.0, (0.1, 1.0, 10.0)),
            "task_weight": (1.0, (1.0,)),
        },
    )
