"""Bi-tuning: features are close to those of their class, in two spaces, against a queue of examples of each class.

Zhong et al., 2020, "Bi-tuning of Pre-trained Representations", arXiv:2011.06182, section 3: loss + trade_off * (the
contrast of the head's weight of the class with features + that of a projection of the features with projections). Each
contrast is the mean over the positive keys, the example's own and those of its class in the queue, of
-log softmax(cosine / T) over all keys. In the first the example's own key is its own feature, as in TLlib. Keys are
those of a momentum copy on a second view of the batch, in training mode; the queues start as random directions. The
second view also passes through the model itself, since streams share one pass, where it counts for batch statistics.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import SAME, Method, task_loss, without
from jaxfer.methods import _dense, _domains
from jaxfer.methods._views import moved, of_copy, unit_length
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten


def method(port: Port, *, queue: int = 40, projection: int = 128) -> Method:
    """Groups: `head`, `projector`, `backbone`. Reads the stream `view`, the same examples augmented anew.

    Args:
      port: the model.
      queue: keys that are kept of each class.
      projection: width of the second space; between it and the features lies a hidden layer as wide as these.

    Hparams: `trade_off`; `temperature` (T); `momentum_copy`, the share of itself that the copy keeps in a step.
    """
    if queue < 1 or projection < 1:
        raise InputError(f"options: expected queue >= 1 and projection >= 1, found {queue} and {projection}")
    unit, plain = port.units[-1], without("projector")

    def keys(ctx, copied):
        """Features and projections of the second view under the copy, of length 1."""
        features, copy = of_copy(ctx, copied, plain, ctx.batch["view"])
        found = unit_length(features), unit_length(_dense.through(copy["projector"][unit], features))
        return jax.lax.stop_gradient(found)

    def init(params, key, given):
        _domains.check_vectors("bituning", port)
        (width,), drawn = port.features, jax.random.split(key, 3)
        params = {**params, "projector": {unit: _dense.drawn(drawn[0], [width, width, projection])}}
        queues = [
            unit_length(jax.random.normal(drawn[i], (port.outputs, queue, size)))
            for i, size in ((1, width), (2, projection))
        ]
        place = jnp.zeros(port.outputs, jnp.int32)
        return params, {"copy": flatten(params), "features": queues[0], "projections": queues[1], "place": place}

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        label, temperature = ctx.batch["label"], ctx.hparams["temperature"]
        features = ctx.taps[FEATURES].astype(jnp.float32)
        weights = unit_length(flatten(ctx.params)[f"{port.head}/kernel"].T)[label]
        projections = unit_length(_dense.through(ctx.params["projector"][unit], features))
        _, key = keys(ctx, ctx.extra["copy"])
        classes = contrast(weights, unit_length(features), ctx.extra["features"], label, temperature)
        examples = contrast(projections, key, ctx.extra["projections"], label, temperature)
        logged = {**logged, "class_contrast": classes, "example_contrast": examples}
        return value + ctx.hparams["trade_off"] * (classes + examples), logged

    def update(ctx, extra):
        label, kept = ctx.batch["label"], ctx.hparams["momentum_copy"]
        features, projections = keys(ctx, extra["copy"])
        (of_features, place), (of_projections, _) = (
            enqueued(extra[name], extra["place"], rows, label)
            for name, rows in (("features", features), ("projections", projections))
        )
        copy = moved(extra["copy"], flatten(ctx.params), kept)
        return {"copy": copy, "features": of_features, "projections": of_projections, "place": place}

    return Method(
        rules=((f"{port.head}/.*", "head"), ("projector/.*", "projector"), (".*", "backbone")),
        init=init,
        view=plain,
        merge=plain,
        taps=(FEATURES,),
        streams={"view": SAME},
        loss=loss,
        update=update,
        tasks=("classification",),
        whole_batch=True,  # the queues take all of its examples
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "trade_off": (1.0, (0.3, 1.0)),
            "temperature": (0.07, (0.07, 0.2)),
            "momentum_copy": (0.999, (0.99, 0.999)),
        },
        limits={"momentum_copy": (0.0, 1.0)},
    )


def contrast(
    anchors: jax.Array, own: jax.Array, queue: jax.Array, label: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """[]: of anchors [batch, width] with each one's own key and a queue [classes, keys, width]."""
    each = jnp.einsum("bd,ckd->bck", anchors, queue)
    own = (anchors * own).sum(-1)
    logits = jnp.concatenate([own[:, None], each.reshape(len(each), -1)], axis=1) / temperature
    logs = jax.nn.log_softmax(logits)
    of_class = jnp.take_along_axis(logs[:, 1:].reshape(each.shape), label[:, None, None], axis=1)[:, 0]
    return -((logs[:, 0] + of_class.sum(-1)) / (1 + queue.shape[1])).mean()


def enqueued(queue: jax.Array, place: jax.Array, rows: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the queue in which each row has taken its class's oldest place, the next places [classes])."""

    def put(carry, example):
        queue, place = carry
        row, of_class = example
        queue = queue.at[of_class, place[of_class]].set(row)
        return (queue, place.at[of_class].set((place[of_class] + 1) % queue.shape[1])), None

    return jax.lax.scan(put, (queue, place), (rows, label))[0]
