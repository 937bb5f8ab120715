"""SimCLR: two views of an image are told from those of the other images in the batch. No labels are read.

Chen et al., 2020, "A Simple Framework for Contrastive Learning of Visual Representations", arXiv:2002.05709: the
normalised temperature-scaled cross-entropy (eq. 1) of a projection of the features, which is dropped afterwards. The
projection is W_2 relu(W_1 h) (section 2.1). In the authors' code a batch norm follows each of its layers, the last one
without a bias: `normed`. They have LARS on large batches; here the optimizer is the config's.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import InputError
from jaxfer.method import SAME, Method, without
from jaxfer.methods import _dense
from jaxfer.methods._views import unit_length
from jaxfer.models.port import FEATURES, Port

LARGE = 1e9


def method(port: Port, *, projection: int = 128, normed: bool | None = None) -> Method:
    """Groups: `projection`, `backbone`. Reads the stream `view`, the same examples augmented anew.

    Args:
      port: the model.
      projection: width of what the loss compares; between it and the features lies a hidden layer as wide as these.
      normed: whether both layers are normalised over the views of the batch, as in the authors' code.

    Hparam: `temperature`.
    """
    if projection < 1:
        raise InputError(f"options.projection: expected at least 1, found {projection}")

    def init(params, key, given):
        if len(port.features) != 1:
            raise InputError(f"simclr compares one vector per example, this model's have the shape {port.features}")
        (width,) = port.features
        keys = jax.random.split(key)
        hidden = jax.random.normal(keys[0], (width, width)) * jnp.sqrt(2 / width)
        out = jax.random.normal(keys[1], (width, projection)) * jnp.sqrt(1 / width)
        head = {"hidden": {"kernel": hidden, "bias": jnp.zeros(width)}, "out": {"kernel": out}}
        if normed:
            head["hidden"]["scale"], head["out"]["scale"] = jnp.ones(width), jnp.ones(projection)
        return {**params, "projection": {port.units[-1]: head}}, {}

    view = without("projection")

    def loss(ctx, outputs):
        head = ctx.params["projection"][port.units[-1]]
        features = jnp.concatenate([ctx.taps[FEATURES], ctx.streams["view"].taps[FEATURES]]).astype(jnp.float32)
        value, right = nt_xent(projected(head, features), ctx.hparams["temperature"])
        return value, {"view_accuracy": right}

    return Method(
        rules=(("projection/.*", "projection"), (".*", "backbone")),
        init=init,
        view=view,
        loss=loss,
        merge=view,
        taps=(FEATURES,),
        streams={"view": SAME},
        tasks=("unlabelled",),
        whole_batch=True,
        hparams={"lr": (1e-3, (3e-4, 1e-3, 3e-3)), "temperature": (0.5, (0.1, 0.5, 1.0))},
    )


def projected(head: Mapping[str, Mapping[str, jax.Array]], x: jax.Array) -> jax.Array:
    """[views, width] -> [views, projection]; a layer that has a scale is normalised over the views."""

    def layer(x, leaves):
        x = x @ leaves["kernel"]
        if "scale" in leaves:
            x = (x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + _dense.EPSILON) * leaves["scale"]
        return x + leaves["bias"] if "bias" in leaves else x

    return layer(jax.nn.relu(layer(x, head["hidden"])), head["out"])


def nt_xent(z: jax.Array, temperature: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """(loss, share of views whose partner is nearest) of [2 n, width]; rows i and n + i are the views of example i."""
    z = unit_length(z)
    count = len(z)
    logits = z @ z.T / temperature - LARGE * jnp.eye(count)
    partner = (jnp.arange(count) + count // 2) % count
    each = optax.softmax_cross_entropy_with_integer_labels(logits, partner)
    return each.mean(), (logits.argmax(-1) == partner).mean()
