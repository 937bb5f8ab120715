"""MoCo: a view of an image is matched with its other view among a queue of other images' views. No labels are read.

He et al., 2020, "Momentum Contrast for Unsupervised Visual Representation Learning", arXiv:1911.05722, eqs. 1 and 2:
the mean over the batch of -log of exp(q . k+ / T) / (exp(q . k+ / T) + sum over the queue of exp(q . k / T)), q and k
projections of length 1 of a view and of the other view under a momentum copy of the network. The queue starts as random
directions, as in the authors' code. Their shuffled batch norm is left out: batch statistics are of the whole batch here
on any number of devices. The second view also passes through the network itself, since streams share one pass, where it
counts for batch statistics.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import SAME, Method, without
from jaxfer.methods import _dense, _domains
from jaxfer.methods._views import moved, of_copy, unit_length
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten


def method(port: Port, *, queue: int = 65536, projection: int = 128, hidden: bool = False) -> Method:
    """Groups: `projection`, `backbone`. Reads the stream `view`, the same examples augmented anew.

    Args:
      port: the model.
      queue: keys that are kept; at least as many as a batch has examples.
      projection: width of what the loss compares.
      hidden: whether a hidden layer as wide as the features lies before it: MoCo v2 (Chen et al., 2020,
        arXiv:2003.04297), whose temperature is 0.2.

    Hparams: `temperature` (T); `momentum_copy`, the share of itself that the copy keeps in a step.
    """
    if queue < 1 or projection < 1:
        raise InputError(f"options: expected queue >= 1 and projection >= 1, found {queue} and {projection}")
    unit, view = port.units[-1], without("projection")

    def keys(ctx, copied):
        features, copy = of_copy(ctx, copied, view, ctx.batch["view"])
        return jax.lax.stop_gradient(unit_length(_dense.through(copy["projection"][unit], features)))

    def init(params, key, given):
        _domains.check_vectors("moco", port)
        (width,), drawn = port.features, jax.random.split(key)
        sizes = [width, width, projection] if hidden else [width, projection]
        params = {**params, "projection": {unit: _dense.drawn(drawn[0], sizes)}}
        kept = unit_length(jax.random.normal(drawn[1], (queue, projection)))
        return params, {"copy": flatten(params), "queue": kept, "place": jnp.zeros((), jnp.int32)}

    def loss(ctx, outputs):
        features = ctx.taps[FEATURES].astype(jnp.float32)
        queries = unit_length(_dense.through(ctx.params["projection"][unit], features))
        own = keys(ctx, ctx.extra["copy"])
        value, right = info_nce(queries, own, ctx.extra["queue"], ctx.hparams["temperature"])
        return value, {"view_accuracy": right}

    def update(ctx, extra):
        kept, place = enqueued(extra["queue"], extra["place"], keys(ctx, extra["copy"]))
        copy = moved(extra["copy"], flatten(ctx.params), ctx.hparams["momentum_copy"])
        return {"copy": copy, "queue": kept, "place": place}

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
        whole_batch=True,  # the queue takes all of its examples
        hparams={
            "lr": (1e-3, (3e-4, 1e-3, 3e-3)),
            "temperature": (0.07, (0.07, 0.2)),
            "momentum_copy": (0.999, (0.99, 0.999)),
        },
        limits={"momentum_copy": (0.0, 1.0)},
    )


def info_nce(
    queries: jax.Array, keys: jax.Array, queue: jax.Array, temperature: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """(loss, share of queries whose key is nearest) of rows [batch, width], their keys, and others [queue, width]."""
    own = (queries * keys).sum(-1, keepdims=True)
    logits = jnp.concatenate([own, queries @ queue.T], axis=1) / temperature
    return -jax.nn.log_softmax(logits)[:, 0].mean(), (logits.argmax(-1) == 0).mean()


def enqueued(queue: jax.Array, place: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the queue in which rows have taken the oldest places, the next place)."""
    size, count = len(queue), len(rows)
    if count > size:
        raise InputError(f"moco: a queue of {size} keys is smaller than a batch of {count}; raise options.queue")
    return queue.at[(place + jnp.arange(count)) % size].set(rows), (place + count) % size
