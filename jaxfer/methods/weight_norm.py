"""Weight normalisation, an add-on: the output layer's kernel as a length for each class and a direction.

Salimans and Kingma, 2016, "Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep Neural
Networks", arXiv:1602.07868, eq. 2: w = g v / |v|, with a g and a v for each output, v being the kernel's column. The
g start as the lengths, so that the first step begins with the network as it is. What a run leaves is w alone, an
output layer like any other. SHOT trains its source so (arXiv:2002.08546), with a neck below it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method, task_loss, without
from jaxfer.models.port import Port


def add(method: Method, port: Port) -> Method:
    """The method with a normalised output layer. The lengths are in the kernel's group.

    Args:
      method: one whose loss is the task's alone, and that trains the output layer.
      port: the model.
    """
    kernel, length = f"{port.head}/kernel", f"weight_norm/{port.head}/scale"  # a scale: no decay draws it to zero
    if method.loss is not task_loss or method.at_once is not None:
        raise InputError(
            "add-on weight_norm: expected a method that trains by the task's loss alone, such as full; remove it"
        )
    if method.evaluated is not None:
        raise InputError(
            "add-on weight_norm: averages are of its lengths and directions; name it before the other in config.adds"
        )
    group = rules.resolve((), [kernel], defaults=method.rules)[kernel]

    def init(params, key, given):
        params, extra = method.init(params, key, given)
        leaves = rules.flatten(params)
        if group == FROZEN or kernel not in leaves or leaves[kernel].ndim != 2:
            raise InputError(
                "add-on weight_norm: expected an output layer of one kernel that the method trains; remove it from adds"
            )
        return rules.unflatten({**leaves, length: _lengths(leaves[kernel])}), extra

    def whole(params):
        leaves = rules.flatten(without("weight_norm")(params, None))
        v = leaves[kernel]
        return rules.unflatten({**leaves, kernel: v * (rules.flatten(params)[length] / _lengths(v))})

    return dataclasses.replace(
        method,
        rules=(("weight_norm/.*", group), *method.rules),
        init=init,
        view=lambda params, extra: method.view(whole(params), extra),
        noisy_view=method.noisy_view and (lambda params, extra, key: method.noisy_view(whole(params), extra, key)),
        intercept=lambda params, extra: method.intercept(whole(params), extra),
        merge=method.merge and (lambda params, extra: method.merge(whole(params), extra)),
    )


def _lengths(kernel: jax.Array) -> jax.Array:
    """[outputs] of a kernel [inputs, outputs]."""
    return jnp.sqrt(jnp.square(kernel).sum(0))
