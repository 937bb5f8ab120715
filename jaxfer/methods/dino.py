"""DINO: two views of an image get the same distribution of a network and of its slow copy. No labels are read.

Caron et al., 2021, "Emerging Properties in Self-Supervised Vision Transformers", arXiv:2104.14294, eqs. 1 to 4: the
cross-entropy of softmax(outputs of one view / student_temperature) under softmax((the copy's outputs of the other view
- center) / teacher_temperature), the mean over the batch, summed over both orders of the views; the authors' code takes
the mean of the orders. The copy keeps 1 - (1 - m) (cos(pi step / steps) + 1) / 2 of itself, m being `momentum_copy`,
and the center is a running mean of its outputs. The projection head is the paper's: three layers with GELU, length 1,
and weights of length 1 for each output. The views are two global ones: the small local crops are left out, and so are
the warm-up of the teacher's temperature and the first epoch in which the last layer stands still.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import SAME, Method, without
from jaxfer.methods import _dense, _domains
from jaxfer.methods._views import moved, of_copy, rising, unit_length, views
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten


def method(port: Port, *, classes: int = 4096, hidden: int = 2048, bottleneck: int = 256) -> Method:
    """Groups: `projection`, `backbone`. Reads the stream `view`, the same examples augmented anew.

    Args:
      port: the model.
      classes: outputs that the distribution is over; 65536 in the paper.
      hidden: channels of the head's inner layers.
      bottleneck: of what they give.

    Hparams: `student_temperature`, `teacher_temperature`; `center`, the share of itself that the center keeps in a
    step; `momentum_copy`, that of the copy in the first step.
    """
    if min(classes, hidden, bottleneck) < 1:
        raise InputError(f"options: expected classes, hidden and bottleneck >= 1, found {classes, hidden, bottleneck}")
    unit, view = port.units[-1], without("projection")

    def outputs_of(head, features):
        rows = unit_length(_dense.through(head["stack"], features, functools.partial(jax.nn.gelu, approximate=False)))
        return rows @ unit_length(head["classes"]["kernel"].T).T

    def taught(ctx, copied, batch):
        features, copy = of_copy(ctx, copied, view, batch)
        return jax.lax.stop_gradient(outputs_of(copy["projection"][unit], features))

    def init(params, key, given):
        _domains.check_vectors("dino", port)
        keys, (width,) = jax.random.split(key), port.features
        head = {
            "stack": _dense.drawn(keys[0], [width, hidden, hidden, bottleneck]),
            "classes": {"kernel": jax.random.normal(keys[1], (bottleneck, classes)) / jnp.sqrt(bottleneck)},
        }
        params = {**params, "projection": {unit: head}}
        return params, {"copy": flatten(params), "center": jnp.zeros(classes)}

    def loss(ctx, outputs):
        total, center = 0.0, ctx.extra["center"]
        temperatures = ctx.hparams["student_temperature"], ctx.hparams["teacher_temperature"]
        for features, other in zip(views(ctx), (ctx.batch["view"], ctx.batch), strict=True):
            teacher = taught(ctx, ctx.extra["copy"], other)
            total = total + cross_entropy(
                outputs_of(ctx.params["projection"][unit], features), teacher, center, *temperatures
            )
        return total, {}

    def update(ctx, extra):
        batches = [taught(ctx, extra["copy"], batch) for batch in (ctx.batch, ctx.batch["view"])]
        kept = ctx.hparams["center"]
        center = kept * extra["center"] + (1 - kept) * jnp.concatenate(batches).mean(0)
        copy = moved(extra["copy"], flatten(ctx.params), rising(ctx, ctx.hparams["momentum_copy"]))
        return {"copy": copy, "center": center}

    return Method(
        rules=(("projection/.*", "projection"), (".*", "backbone")),
        init=init,
        view=view,
        loss=loss,
        update=update,
        merge=view,
        taps=(FEATURES,),
        streams={"view": SAME},
        tasks=("unlabelled",),
        whole_batch=True,  # the center is of all of its examples
        hparams={
            "lr": (5e-4, (1e-4, 3e-4, 5e-4, 1e-3)),
            "student_temperature": (0.1, (0.1,)),
            "teacher_temperature": (0.04, (0.04, 0.07)),
            "center": (0.9, (0.9, 0.99)),
            "momentum_copy": (0.996, (0.99, 0.996)),
        },
        limits={"center": (0.0, 1.0), "momentum_copy": (0.0, 1.0)},
    )


def cross_entropy(
    student: jax.Array,
    teacher: jax.Array,
    center: jax.Array,
    student_temperature: jax.Array | float,
    teacher_temperature: jax.Array | float,
) -> jax.Array:
    """[]: of outputs [batch, classes] of two views, the teacher's centered; no gradient goes through the latter."""
    wanted = jax.nn.softmax(jax.lax.stop_gradient(teacher - center) / teacher_temperature)
    return -(wanted * jax.nn.log_softmax(student / student_temperature)).sum(-1).mean()
