"""SAM, an add-on: the gradient is taken where the loss nearby is worst.

Foret et al., 2020, "Sharpness-Aware Minimization for Efficiently Improving Generalization", arXiv:2010.01412, eq. 2:
the gradient at w + rho * g / |g|, g being that at w. Each step costs two forward and backward passes; metrics and
running statistics are those of the first.
"""

from __future__ import annotations

import dataclasses

import jax
import optax

from jaxfer.method import Method
from jaxfer.models.port import Port


def add(method: Method, port: Port) -> Method:
    """The method with sharpness-aware gradients. Hparam: `rho`, the radius, in the norm of all trainable parameters."""

    def gradient(next, ctx, trainable):
        first, rest = method.gradient(next, ctx, trainable)
        scale = ctx.hparams["rho"] / (optax.tree.norm(first) + 1e-12)
        worst = jax.tree.map(lambda w, g: w + scale * g, trainable, first)
        return method.gradient(next, ctx, worst)[0], rest

    return dataclasses.replace(method, gradient=gradient, hparams={**method.hparams, "rho": (0.05, (0.01, 0.05, 0.1))})
