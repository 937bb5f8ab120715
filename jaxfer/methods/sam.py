"""SAM, an add-on: the gradient is taken where the loss nearby is worst.

Foret et al., 2020, "Sharpness-Aware Minimization for Efficiently Improving Generalization", arXiv:2010.01412, eq. 2:
the gradient at w + rho * g / |g|, g being that at w. Each step costs two forward and backward passes; metrics and
running statistics are those of the first.

ASAM (Kwon et al., 2021, "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural
Networks", arXiv:2102.11600, eq. 7), the option `adaptive`: at w + rho * T^2 g / |T g| with T = |w| + 0.01, elementwise.
As in the authors' code T is 1 for biases.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from jaxfer.method import Method
from jaxfer.models.port import Port

ETA = 0.01


def add(method: Method, port: Port, *, adaptive: bool = False) -> Method:
    """The method with sharpness-aware gradients. Hparam: `rho`, the radius, in the norm of all trainable parameters.

    Args:
      method: any.
      port: the model.
      adaptive: ASAM, whose radius is relative to each weight, and so about ten times as large.
    """

    def scaled(trainable, g):
        """T g, or g."""
        if not adaptive:
            return g
        return {path: x if path.endswith("bias") else (jnp.abs(trainable[path]) + ETA) * x for path, x in g.items()}

    def gradient(next, ctx, trainable):
        first, rest = method.gradient(next, ctx, trainable)
        tilted = scaled(trainable, first)
        scale = ctx.hparams["rho"] / (optax.tree.norm(tilted) + 1e-12)
        worst = jax.tree.map(lambda w, g: w + scale * g, trainable, scaled(trainable, tilted))
        return method.gradient(next, ctx, worst)[0], rest

    rho = (0.5, (0.5, 1.0, 2.0)) if adaptive else (0.05, (0.01, 0.05, 0.1))
    return dataclasses.replace(method, gradient=gradient, hparams={**method.hparams, "rho": rho})
