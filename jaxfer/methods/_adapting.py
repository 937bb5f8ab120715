"""What `tent` and `cotta` share: their options, checked, and Adam on chosen leaves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import InputError
from jaxfer.method import RESETS, Method


def check(name: str, method: Method, reset: str, **positive: float) -> None:
    """`InputError` for options out of range, or a method that this add-on can't be put on."""
    if reset not in RESETS:
        raise InputError(
            f"options.reset: {name} expects 'episodic' (after every batch), 'online' (at the start of each evaluation) "
            f"or 'continual' (kept from one corruption to the next), found {reset!r}"
        )
    for option, value in positive.items():
        if not value > 0:
            raise InputError(f"options.{option}: expected a number above 0, found {value}")
    if method.adapt is not None:
        raise InputError(f"add-on {name}: another add-on adapts at evaluation already; choose one of the two")
    if method.tasks and "classification" not in method.tasks:
        learns = f"the method learns {' or '.join(method.tasks)}"
        raise InputError(f"add-on {name} needs chances of classes, {learns}; remove it from adds")


def moved(rate: float, gradients: Any, opt: Any, leaves: Any) -> tuple[Any, Any]:
    """(leaves, Adam's state) after a step, beta 0.9 and 0.999."""
    updates, opt = optax.adam(rate).update(gradients, opt, leaves)
    return optax.apply_updates(leaves, updates), opt


def entropy(logits: jax.Array) -> jax.Array:
    """[]: the mean entropy of the predictions, of logits [batch, classes]."""
    logs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -(jnp.exp(logs) * logs).sum(-1).mean()
