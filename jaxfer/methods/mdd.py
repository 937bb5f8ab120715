"""MDD: features on which a second head can't agree with the first on the source and disagree on the target.

Zhang et al., 2019, "Bridging Theory and Algorithm for Domain Adaptation", arXiv:1904.05801, section 4. With f the class
that the head predicts, the second head minimises margin * CE(source, f) - mean log(1 - its chance of f) (target), and a
reversed gradient makes the backbone maximise it. As in TLlib the logarithm is of 1e-6 more.

The second head has a hidden layer. The authors and TLlib put a bottleneck of 1024 (with batch norm and dropout) under
both heads and a hidden layer with dropout in each. The bottleneck and the first head's hidden layer are the model's:
`config.model.neck=1024, neck_hidden=1024, neck_dropout=0.5`; with them the second head has `options.dropout=0.5`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import InputError
from jaxfer.method import Method, task_loss, without
from jaxfer.methods import _dense, _domains
from jaxfer.models import neck
from jaxfer.models.port import Port


def method(
    port: Port, *, hidden: int = 1024, layers: int = 1, dropout: float | None = None, norms: str = "joint"
) -> Method:
    """Groups: `head`, `adversary` (the second head), `backbone`. Reads the stream `target`.

    Args:
      port: the model.
      hidden: width of the second head.
      layers: its hidden layers.
      dropout: drop rate of what they give; None: 0.
      norms: as in `_domains`: `joint` or `separate`.

    Hparams: `trade_off`; `margin`; `reversal`, the most that the reversed gradient weighs, and `slope` of its rise, as
    in `dann`.
    """
    if hidden < 1 or layers < 0:
        raise InputError(f"options: expected hidden >= 1 and layers >= 0, found hidden={hidden}, layers={layers}")
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"options.dropout must be a drop rate in [0, 1), found {dropout}")

    tap, width = neck.bottleneck(port)

    def init(params, key, given):
        _domains.check_vectors("mdd", port)
        stack = _dense.drawn(key, [width, *[hidden] * layers, port.outputs])
        return {**params, "adversary": {port.units[-1]: stack}}, {}

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        source, target = _domains.features(ctx, tap)
        strength = ctx.hparams["reversal"] * _domains.rising(ctx)
        both = _domains.reverse(jnp.concatenate([source, target]), strength)
        activation = dropped(ctx.key, dropout or 0.0)
        second = _dense.through(ctx.params["adversary"][port.units[-1]], both, activation)
        first = outputs, ctx.streams["target"].outputs
        apart = disparity(*first, second[: len(source)], second[len(source) :], ctx.hparams["margin"])
        return value - ctx.hparams["trade_off"] * apart, {**logged, "disparity": apart}

    return Method(
        rules=((f"{port.head}/.*", "head"), ("adversary/.*", "adversary"), (".*", "backbone")),
        init=init,
        view=without("adversary"),
        loss=loss,
        merge=without("adversary"),
        taps=(tap,),
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


def dropped(key: jax.Array, rate: float) -> Callable[[jax.Array], jax.Array]:
    """ReLU and dropout, of which each call draws anew."""
    calls = itertools.count()

    def activation(x):
        kept = jax.random.bernoulli(jax.random.fold_in(key, next(calls)), 1 - rate, x.shape) if rate else True
        return jnp.where(kept, jax.nn.relu(x) / (1 - rate), 0.0)

    return activation


def disparity(
    source: jax.Array, target: jax.Array, second_source: jax.Array, second_target: jax.Array, margin: jax.Array | float
) -> jax.Array:
    """[]: what the second head maximises, of logits [batch, classes] of both heads in both domains."""
    of_source, of_target = source.argmax(-1), target.argmax(-1)
    agree = optax.softmax_cross_entropy_with_integer_labels(second_source, of_source).mean()
    chance = jnp.take_along_axis(jax.nn.softmax(second_target), of_target[:, None], axis=1)[:, 0]
    return jnp.log(jnp.minimum(1 - chance + 1e-6, 1.0)).mean() - margin * agree
