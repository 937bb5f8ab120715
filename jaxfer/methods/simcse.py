"""SimCSE: a text is told from the others in the batch by itself, under another dropout mask. No labels are read.

Gao et al., 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings", arXiv:2104.08821, eqs. 1 and 4, the
unsupervised form: the mean over the batch of -log of exp(sim(h_i, h'_i) / T) / sum_j exp(sim(h_i, h'_j) / T), sim being
the cosine, h and h' two training passes of the same texts. As in the paper a dense layer with tanh lies between the
features and the loss, which is dropped afterwards; the paper has it on the first token (`model.pool=cls`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxfer.method import Method, without
from jaxfer.methods import _dense, _domains
from jaxfer.methods._views import unit_length
from jaxfer.models.port import FEATURES, Port


def method(port: Port, *, layer: bool = True) -> Method:
    """Groups: `projection` where there is that layer, `backbone`. Refused where no dropout acts.

    Args:
      port: the model.
      layer: whether the dense layer with tanh is there; `pool=pooler` has one of its own.

    Hparam: `temperature`.
    """

    def init(params, key, given):
        _domains.check_vectors("simcse", port)
        (width,) = port.features
        added = {"projection": {port.units[-1]: _dense.drawn(key, [width, width])}} if layer else {}
        return {**params, **added}, {}

    view = without("projection")

    def loss(ctx, outputs):
        again = ctx.forward(view(ctx.params, ctx.extra), train=True, taps=(FEATURES,))
        passes = [taps[FEATURES].astype(jnp.float32) for taps in (ctx.taps, again.taps)]
        if layer:
            stack = ctx.params["projection"][port.units[-1]]
            passes = [jnp.tanh(_dense.through(stack, features)) for features in passes]
        value, right = contrast(*passes, ctx.hparams["temperature"])
        return value, {"pass_accuracy": right}

    projected = (("projection/.*", "projection"),) if layer else ()
    return Method(
        rules=(*projected, (".*", "backbone")),
        init=init,
        view=view,
        loss=loss,
        merge=view,
        taps=(FEATURES,),
        tasks=("unlabelled",),
        whole_batch=True,
        dropout=True,
        hparams={"lr": (3e-5, (1e-5, 3e-5, 5e-5)), "temperature": (0.05, (0.03, 0.05, 0.1))},
    )


def contrast(one: jax.Array, other: jax.Array, temperature: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """(loss, share of rows whose own row is nearest) of two passes [batch, width] of the same examples."""
    logits = unit_length(one) @ unit_length(other).T / temperature
    own = jnp.arange(len(logits))
    each = optax.softmax_cross_entropy_with_integer_labels(logits, own)
    return each.mean(), (logits.argmax(-1) == own).mean()
