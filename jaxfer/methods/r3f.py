"""R3F, an add-on: outputs are to stay the same when a little noise is added to the embeddings of the tokens.

Aghajanyan et al., 2020, "Better Fine-Tuning by Reducing Representational Collapse", arXiv:2008.03156, section 3:
loss + weight * (KL(p || q) + KL(q || p)), p being the softmax of the outputs and q that of a second training pass with
noise on the word embeddings, the mean over the batch. As in fairseq the noise is uniform on [-noise, noise] unless it
is chosen normal, gradients go through both passes, and each has dropout of its own.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.methods import _embeddings
from jaxfer.methods._based import check_main
from jaxfer.models.port import Port


def add(method: Method, port: Port, *, noise: float = 1e-5, normal: bool = False) -> Method:
    """The method with a second, noisy pass. Hparam: `r3f_weight`.

    Args:
      method: of the task classification.
      port: of a model that embeds tokens, in the table `word` of its first unit.
      noise: the largest of uniform noise, or the standard deviation of normal noise.
      normal: whether it is normal.
    """
    if noise < 0:
        raise InputError(f"options.noise: expected at least 0, found {noise}")
    check_main("r3f", method)
    if method.tasks and "classification" not in method.tasks:
        learns = f"the method learns {' or '.join(method.tasks)}"
        raise InputError(f"add-on r3f compares classes, {learns}; remove it from adds")

    def init(params, key, given):
        _embeddings.check("r3f", port, params)
        return method.init(params, key, given)

    def drawn(key, embedded):
        if normal:
            return noise * jax.random.normal(key, embedded.shape, embedded.dtype)
        return jax.random.uniform(key, embedded.shape, embedded.dtype, -noise, noise)

    def loss(ctx, outputs):
        value, logged = method.loss(ctx, outputs)
        noisy = _embeddings.noised(method.intercept(ctx.params, ctx.extra), port, drawn)
        again = ctx.forward(method.view(ctx.params, ctx.extra), train=True, intercept=noisy).outputs
        apart = divergence(outputs, again)
        return value + ctx.hparams["r3f_weight"] * apart, {**logged, "r3f": apart}

    return dataclasses.replace(
        method,
        init=init,
        loss=loss,
        tasks=("classification",),
        hparams={**method.hparams, "r3f_weight": (1.0, (0.1, 0.5, 1.0, 5.0))},
        limits={**method.limits, "r3f_weight": (0.0, float("inf"))},
    )


def divergence(one: jax.Array, other: jax.Array) -> jax.Array:
    """[]: KL(p || q) + KL(q || p) of the softmax of these logits [batch, classes], in nats; its mean over them."""
    p, q = (jax.nn.log_softmax(x.astype(jnp.float32)) for x in (one, other))
    return ((jnp.exp(p) - jnp.exp(q)) * (p - q)).sum(-1).mean()
