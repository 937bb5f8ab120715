"""MDD: features on which a second head can't agree with the first on the source and disagree on the target.

Zhang et al., 2019, "Bridging Theory and Algorithm for Domain Adaptation", arXiv:1904.05801, section 4. With f the class
that the head predicts, the second head minimises margin * CE(source, f) - mean log(1 - its chance of f) (target), and a
reversed gradient makes the backbone maximise it. As in TLlib the logarithm is of 1e-6 more.

The second head has a hidden layer, and the first has none. The authors and TLlib put a bottleneck of 1024 (with batch
norm and dropout) under both heads, which is the model's: `config.model.neck=1024, neck_dropout=0.5`. They also have a
hidden layer with dropout in each head; the first one here has no such option, since it is the model's output layer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import InputError
from jaxfer.method import Method, task_loss, without
from jaxfer.methods import _dense, _domains
from jaxfer.models.port import FEATURES, Port


def method(port: Port, *, hidden: int = 1024, layers: int = 1, norms: str = "joint") -> Method:
    """Groups: `head`, `adversary` (the second head), `backbone`. Reads the stream `target`.

    Args:
      port: the model.
      hidden: width of the second head.
      layers: its hidden layers.
      norms: as in `_domains`: `joint` or `separate`.

    Hparams: `trade_off`; `margin`; `reversal`, the most that the reversed gradient weighs, and `slope` of its rise, as
    in `dann`.
    """
    if hidden < 1 or layers < 0:
        raise InputError(f"options: expected hidden >= 1 and layers >= 0, found hidden={hidden}, layers={layers}")

    def init(params, key, given):
        _domains.check_vectors("mdd", port)
        stack = _dense.drawn(key, [*port.features, *[hidden] * layers, port.outputs])
        return {**params, "adversary": {port.units[-1]: stack}}, {}

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        source, target = _domains.features(ctx)
        strength = ctx.hparams["reversal"] * _domains.rising(ctx)
        both = _domains.reverse(jnp.concatenate([source, target]), strength)
        second = _dense.through(ctx.params["adversary"][port.units[-1]], both)
        first = outputs, ctx.streams["target"].outputs
        apart = disparity(*first, second[: len(source)], second[len(source) :], ctx.hparams["margin"])
        return value - ctx.hparams["trade_off"] * apart, {**logged, "disparity": apart}

    return Method(
        rules=((f"{port.head}/.*", "head"), ("adversary/.*", "adversary"), (".*", "backbone")),
        init=init,
        view=without("adversary"),
        loss=loss,
        merge=without("adversary"),
        taps=(FEATURES,),
        streams=_domains.STREAMS,
        separate=_domains.apart(norms),
        tasks=("classification",),
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "trade_off": (1.0, (0.1, 0.3, 1.0)),
            "margin": (4.0, (2.0, 3.0, 4.0)),
            "reversal": (0.1, (0.1,)),
            "slope": (10.0, (10.0,)),
        },
    )


def disparity(
    source: jax.Array, target: jax.Array, second_source: jax.Array, second_target: jax.Array, margin: jax.Array | float
) -> jax.Array:
    """[]: what the second head maximises, of logits [batch, classes] of both heads in both domains."""
    of_source, of_target = source.argmax(-1), target.argmax(-1)
    agree = optax.softmax_cross_entropy_with_integer_labels(second_source, of_source).mean()
    chance = jnp.take_along_axis(jax.nn.softmax(second_target), of_target[:, None], axis=1)[:, 0]
    return jnp.log(jnp.minimum(1 - chance + 1e-6, 1.0)).mean() - margin * agree
