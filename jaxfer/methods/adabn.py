"""AdaBN: batch norms take the target's statistics; no parameter changes.

Li et al., 2016, "Revisiting Batch Normalization For Practical Domain Adaptation", arXiv:1603.04779, Algorithm 1: mean
and variance of each norm's inputs over the target, by forward passes alone. The paper takes them over all of the target
at once; here running statistics follow its batches at the norm's own momentum, so that with PyTorch's 0.1 a share of
0.9^steps is the source's in the end. Each norm is normalised by its batch's statistics meanwhile, and nothing is
dropped. The labelled examples do not pass through the network. The stage starts from a classifier of the source.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method
from jaxfer.methods import _domains
from jaxfer.models.port import Port


def method(port: Port) -> Method:
    """No group is trained: the loss is 0, rates have no effect. Reads the stream `target`."""

    def init(params, key, given):
        if not port.norms(given.model_state or {}):
            raise InputError("adabn: the model keeps no running statistics; use shot or tent")
        return params, {}

    return Method(
        rules=((".*", FROZEN),),
        init=init,
        streams=_domains.STREAMS,
        main=False,
        norms_alone=True,
        loss=lambda ctx, outputs: (jnp.zeros(()), {}),
        hparams={"lr": (0.0, (0.0,))},
    )
