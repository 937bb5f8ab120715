"""MCD: features on which a second head agrees with the first, however the two are set against each other.

Saito et al., 2018, "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation", arXiv:1712.02560, section 3.3.
The paper takes three steps on each batch: A, all minimise both heads' cross-entropy on the source; B, the heads
minimise it less their discrepancy on the target, the mean of |p1 - p2|; C, the backbone minimises the discrepancy, and
does so `repeats` times. Its two optimisers, of the backbone and the heads, take these steps one after the other.

Here they are one step: the heads get the sum of the gradients of A and B, the backbone that of A and `repeats` times
that of C, all at the same parameters. Under plain SGD that is the paper's step up to the square of the rate; what C
would gain from heads that B has just changed, and from features that it has changed itself, is one step late. Batch
statistics are of both domains, where the paper's passes are of one or both. As in TLlib, A and B also add
`balance` * -mean log(mean p) of each head on the target. The second head is a linear layer as the first is; what
is evaluated and exported is the first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.method import Method, task_loss, without
from jaxfer.methods import _dense, _domains
from jaxfer.models import heads
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten


def method(port: Port) -> Method:
    """Groups: `head`, `second_head`, `backbone`. Reads the stream `target`.

    Hparams: `trade_off`, the weight of the discrepancy in B and C; `repeats` of C; `balance`.
    """
    unit, under = port.units[-1], f"{port.head}/"

    def init(params, key, given):
        _domains.check_vectors("mcd", port)
        return {**params, "mcd": {unit: _dense.drawn(key, [*port.features, port.outputs])}}, {}

    def loss(ctx, outputs):
        first = {path.removeprefix(under): x for path, x in flatten(ctx.params).items() if path.startswith(under)}
        second = ctx.params["mcd"][unit]
        source, target = _domains.features(ctx)

        def both(features, share):  # the heads' gradients are whole, the features get this share of them
            features = _domains.reverse(features, -share)
            return heads.read(first, features), _dense.through(second, features)

        on_source, on_target = both(source, 0.5), both(target, -ctx.hparams["repeats"])
        losses = [task_loss(ctx, logits)[0] for logits in on_source]
        balance = sum(map(imbalance, both(target, 0.5)))
        apart = discrepancy(*on_target)
        value = 2 * (sum(losses) + ctx.hparams["balance"] * balance) - ctx.hparams["trade_off"] * apart
        logged = {"task_loss": losses[0], "second_loss": losses[1], "discrepancy": apart}
        return value, logged

    return Method(
        rules=((f"{port.head}/.*", "head"), ("mcd/.*", "second_head"), (".*", "backbone")),
        init=init,
        view=without("mcd"),
        loss=loss,
        merge=without("mcd"),
        taps=(FEATURES,),
        streams=_domains.STREAMS,
        tasks=("classification",),
        whole_batch=True,  # the balance is of a batch's mean
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "trade_off": (1.0, (0.3, 1.0)),
            "repeats": (4.0, (2.0, 4.0)),
            "balance": (0.01, (0.0, 0.01)),
        },
    )


def discrepancy(first: jax.Array, second: jax.Array) -> jax.Array:
    """[]: the mean over examples and classes of |p1 - p2|, of logits [batch, classes] of both heads."""
    return jnp.abs(jax.nn.softmax(first) - jax.nn.softmax(second)).mean()


def imbalance(logits: jax.Array) -> jax.Array:
    """[]: -mean log of the batch's mean chances of the classes, least where all are alike; the log is of 1e-6 more."""
    return -jnp.log(jax.nn.softmax(logits).mean(0) + 1e-6).mean()
