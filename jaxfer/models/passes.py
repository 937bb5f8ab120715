"""What intercepts a pass of a port: dropout and norms by the stage's settings, stored features, activations to keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Interceptor = Callable[..., Any]

FEATURES = "features"  # the tap of what the output layer reads
BOTTLENECK = "bottleneck"  # of what a hidden layer before it reads
TAPS = "taps"  # flax's collection of them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of a training pass that an evaluation pass does not have.

    Attributes:
      key: typed PRNG key of this step; dropout draws from it.
      live: units with a trainable leaf or an adapter; dropout and stochastic depth act only there.
      eval_norms: paths of normalisation modules that use, and keep, their running statistics; of any class that is
        called with `use_running_average`, a port's own or flax's.
      dropout: (path of a dropout module, rate) of those that have another rate than the model's.
    """

    key: jax.Array
    live: frozenset[str]
    eval_norms: frozenset[str]
    dropout: tuple[tuple[str, float], ...] = ()


def policy(training: Training) -> Interceptor:
    """Interceptor for frozen units (no dropout, and running statistics in frozen norms) and for other dropout rates."""
    rates = dict(training.dropout)

    def intercept(next_fun, args, kwargs, context):
        module, path = context.module, "/".join(context.module.path)
        if context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        if isinstance(module, nn.Dropout):
            if module.path[0] not in training.live:
                kwargs = {**kwargs, "deterministic": True}
            elif path in rates:
                return _dropped(module, rates[path], *args)
        if path in training.eval_norms:
            kwargs = {**kwargs, "use_running_average": True}
        return next_fun(*args, **kwargs)

    return intercept


def _dropped(module: nn.Dropout, rate: float, x: jax.Array) -> jax.Array:
    """What the module gives in training at this rate."""
    if not rate:
        return x
    shape = [1 if axis in module.broadcast_dims else size for axis, size in enumerate(x.shape)]
    kept = jax.random.bernoulli(module.make_rng(module.rng_collection), 1 - rate, shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


def given(features: jax.Array, entrance: str) -> Interceptor:
    """Interceptor that has this module read these; what the head computed of its inputs is dropped."""

    def intercept(next_fun, args, kwargs, context):
        if context.method_name == "__call__" and "/".join(context.module.path) == entrance:
            args = (features, *args[1:])
        return next_fun(*args, **kwargs)

    return intercept


def tapped(taps: tuple[str, ...], head: str, bottleneck: str | None = None) -> Interceptor:
    """Interceptor that keeps activations; as a collection of flax, so that a rematerialised unit gives its own too.

    Args:
      taps: paths of modules, for what they give; `FEATURES`; `BOTTLENECK`.
      head: path of the output layer.
      bottleneck: of the hidden layer before it.
    """
    read = {head: FEATURES, bottleneck: BOTTLENECK}

    def intercept(next_fun, args, kwargs, context):
        path, module = "/".join(context.module.path), context.module
        called = context.method_name == "__call__"
        if called and read.get(path) in taps:
            module.sow(TAPS, read[path], args[0])
        outputs = next_fun(*args, **kwargs)
        if called and path in taps:
            module.sow(TAPS, path, outputs)
        return outputs

    return intercept
