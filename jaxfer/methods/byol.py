"""BYOL: from one view of an image, what a slow copy of the network makes of the other is predicted. No labels are read.

Grill et al., 2020, "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", arXiv:2006.07733, eqs. 2 to
5: the mean over the batch of 2 - 2 cos(prediction, target), summed over both orders of the views. Prediction and target
are projections, the former through a predictor besides; the copy keeps 1 - (1 - tau) (cos(pi step / steps) + 1) / 2 of
itself, tau being `momentum_copy`. As in the paper's own code the inner layers of projector and predictor are normalised
over the batch, each view by itself; the backbone's batch statistics are of both views. No LARS: the optimizer is the
config's.
"""

from __future__ import annotations

import jax

from jaxfer.errors import InputError
from jaxfer.method import SAME, Method
from jaxfer.methods import _dense, _domains
from jaxfer.methods._views import moved, of_copy, rising, unit_length, views
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten


def method(port: Port, *, hidden: int = 4096, projection: int = 256) -> Method:
    """Groups: `projector`, `predictor`, `backbone`. Reads the stream `view`, the same examples augmented anew.

    Args:
      port: the model.
      hidden: channels of the inner layers of projector and predictor.
      projection: of what they give.

    Hparam: `momentum_copy`, the share of itself that the copy keeps in the first step.
    """
    if hidden < 1 or projection < 1:
        raise InputError(f"options: expected hidden >= 1 and projection >= 1, found {hidden} and {projection}")
    unit, names = port.units[-1], ("projector", "predictor")

    def view(params, extra):
        return {name: leaves for name, leaves in params.items() if name not in names}

    def init(params, key, given):
        _domains.check_vectors("byol", port)
        keys, (width,) = jax.random.split(key), port.features
        projector = {"projector": {unit: _dense.drawn(keys[0], [width, hidden, projection], normed=True)}}
        copy = flatten({**params, **projector})
        predictor = {unit: _dense.drawn(keys[1], [projection, hidden, projection], normed=True)}
        return {**params, **projector, "predictor": predictor}, {"copy": copy}

    def loss(ctx, outputs):
        total, (projector, predictor) = 0.0, (ctx.params[name][unit] for name in names)
        for features, other in zip(views(ctx), (ctx.batch["view"], ctx.batch), strict=True):
            found, copy = of_copy(ctx, ctx.extra["copy"], view, other)
            target = jax.lax.stop_gradient(_dense.through(copy["projector"][unit], found))
            predicted = _dense.through(predictor, _dense.through(projector, features))
            total = total + apart(predicted, target)
        return total, {}

    def update(ctx, extra):
        return {"copy": moved(extra["copy"], flatten(ctx.params), rising(ctx, ctx.hparams["momentum_copy"]))}

    return Method(
        rules=((r"projector/.*", "projector"), (r"predictor/.*", "predictor"), (".*", "backbone")),
        init=init,
        view=view,
        loss=loss,
        update=update,
        merge=view,
        taps=(FEATURES,),
        streams={"view": SAME},
        tasks=("unlabelled",),
        whole_batch=True,
        hparams={"lr": (1e-3, (3e-4, 1e-3, 3e-3)), "momentum_copy": (0.996, (0.99, 0.996))},
        limits={"momentum_copy": (0.0, 1.0)},
    )


def apart(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """[]: the squared distance of rows [batch, width] at length 1, its mean."""
    return (2 - 2 * (unit_length(predicted) * unit_length(target)).sum(-1)).mean()
